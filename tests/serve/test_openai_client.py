"""Programs written for the OpenAI API: the official client against the server."""

import base64
import io

import numpy as np
import openai
import pytest

from openlance.media.encode import encode
from openlance.media.read import read_media

pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")


@pytest.fixture
def client(server):
    return server.openai()


def pixels(b64: str) -> np.ndarray:
    return read_media(base64.b64decode(b64)).frames


def question(url: str) -> list[dict]:
    return [{"role": "user", "content": [{"type": "text", "text": "what?"}, {"type": "image_url", "image_url": {"url": url}}]}]


def test_models(client, server):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "openlance"
    with pytest.raises(openai.NotFoundError, match="does not exist here"):
        client.models.retrieve("gpt-5")


def test_chat_equals_the_python_call(client, lance, picture, png_url):
    answer = client.chat.completions.create(model="tiny", messages=question(png_url), max_tokens=7)
    result = lance.run([lance.request("understand", "what?", [picture], max_new_tokens=7)])[0]
    choice = answer.choices[0]
    assert choice.message.content == result.text
    assert choice.finish_reason == ("length" if len(result.token_ids) == 7 else "stop")
    assert answer.usage.completion_tokens == len(result.token_ids)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_chat_streams_the_same_text(client, png_url):
    whole = client.chat.completions.create(model="tiny", messages=question(png_url), seed=4, temperature=1.0, n=2)
    pieces = {0: "", 1: ""}
    ends, usage = {}, None
    options = {"include_usage": True}
    for chunk in client.chat.completions.create(
        model="tiny", messages=question(png_url), seed=4, temperature=1.0, n=2, stream=True, stream_options=options
    ):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            pieces[choice.index] += choice.delta.content or ""
            ends[choice.index] = choice.finish_reason or ends.get(choice.index)
    assert [pieces[i] for i in range(2)] == [choice.message.content for choice in whole.choices]
    assert pieces[0] != pieces[1]
    assert [ends[i] for i in range(2)] == [choice.finish_reason for choice in whole.choices]
    assert usage == whole.usage


def test_stop_ends_the_answer_before_the_string(client, png_url):
    whole = client.chat.completions.create(model="tiny", messages=question(png_url)).choices[0].message.content
    stop = whole[len(whole) // 2]
    cut = client.chat.completions.create(model="tiny", messages=question(png_url), stop=[stop]).choices[0]
    assert cut.message.content == whole[: whole.index(stop)]
    assert cut.finish_reason == "stop"


def test_a_question_without_media_is_about_the_latest_ones(client, png_url):
    later = [*question(png_url), {"role": "assistant", "content": "noise"}, {"role": "user", "content": "and?"}]
    direct = [{"role": "user", "content": [{"type": "text", "text": "and?"}, {"type": "image_url", "image_url": {"url": png_url}}]}]
    one, other = (client.chat.completions.create(model="tiny", messages=messages) for messages in (later, direct))
    assert one.choices[0].message.content == other.choices[0].message.content
    assert one.usage == other.usage


def test_a_clip_is_looked_at(client, lance, film, mp4):
    url = "data:video/mp4;base64," + base64.b64encode(mp4).decode()
    messages = [{"role": "user", "content": [{"type": "video_url", "video_url": {"url": url}}, {"type": "text", "text": "what?"}]}]
    answer = client.chat.completions.create(model="tiny", messages=messages)
    assert answer.choices[0].message.content == lance.ask(read_media(mp4), "what?")


def test_an_assistant_turn_returns_a_picture_that_the_next_turn_changes(client, lance, picture, png_url):
    made = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "a sun"}], seed=3, extra_body={"modalities": ["image", "text"]}
    )
    (part,) = made.choices[0].message.images
    assert np.array_equal(pixels(part["image_url"]["url"].partition(",")[2])[0], np.asarray(lance.generate_image("a sun", seed=3)))
    messages = [{"role": "user", "content": "a sun"}, {"role": "assistant", "content": "", "images": [part]}]
    messages += [{"role": "user", "content": "at night"}]
    changed = client.chat.completions.create(model="tiny", messages=messages, seed=4, extra_body={"modalities": ["image"]})
    expected = lance.edit(lance.generate_image("a sun", seed=3), "at night", seed=4)
    assert np.array_equal(pixels(changed.choices[0].message.images[0]["image_url"]["url"].partition(",")[2])[0], np.asarray(expected))


def test_images_generate(client, lance):
    answer = client.images.generate(
        model="tiny", prompt="a cat", size="96x64", n=2, extra_body={"seed": 5, "num_inference_steps": 3, "guidance_scale": 2.0}
    )
    expected = lance.generate_image(["a cat"] * 2, width=96, height=64, seed=[5, 6], num_inference_steps=3, guidance_scale=2.0)
    assert all(np.array_equal(pixels(item.b64_json)[0], np.asarray(image)) for item, image in zip(answer.data, expected, strict=True))
    assert answer.seeds == [5, 6]
    assert answer.size == "96x64"
    assert answer.usage.output_tokens == 2 * 24


def test_a_drawn_seed_is_told_and_repeats_the_picture(client):
    first = client.images.generate(prompt="x")
    again = client.images.generate(prompt="x", extra_body={"seed": first.seeds[0]})
    assert first.data[0].b64_json == again.data[0].b64_json


def test_formats_and_notices(client):
    answer = client.images.generate(prompt="x", size="70x64", output_format="webp", response_format="url")
    assert answer.data[0].url.startswith("data:image/webp;base64,")
    assert answer.size == "64x64"
    assert answer.notices == ["width 70 is not a multiple of 16: 64 is used"]


def test_images_stream_previews(client):
    events = list(client.images.generate(prompt="x", stream=True, partial_images=2, extra_body={"seed": 8}))
    assert [event.type for event in events] == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
    assert events[-1].b64_json == client.images.generate(prompt="x", extra_body={"seed": 8}).data[0].b64_json
    assert events[0].b64_json != events[1].b64_json


@pytest.mark.parametrize("count", [1, 2])
def test_images_edit(client, lance, picture, png, count):
    files = [("a.png", png)] * count
    answer = client.images.edit(
        image=files if count > 1 else files[0], prompt="blue", extra_body={"seed": 2, "guidance_interval": [0.0, 1.0]}
    )
    expected = lance.edit([picture] * count, "blue", seed=2, guidance_interval=(0.0, 1.0))
    assert np.array_equal(pixels(answer.data[0].b64_json)[0], np.asarray(expected))


def test_videos(client, lance, picture, png):
    job = client.videos.create(model="tiny", prompt="run", seconds="1", input_reference=("first.png", png), extra_body={"seed": 6})
    assert job.status == "queued"
    assert job.size == "64x64"
    done = client.videos.poll(job.id, poll_interval_ms=20)
    assert (done.status, done.progress, done.error, done.seconds) == ("completed", 100, None, "1.125")
    clip = read_media(client.videos.download_content(job.id).read())
    made = lance.generate_video("run", image=picture, num_frames=9, seed=6)
    assert np.array_equal(clip.frames, read_media(encode(made, "mp4")).frames)
    thumbnail = read_media(io.BytesIO(client.videos.download_content(job.id, variant="thumbnail").read()))
    assert thumbnail.is_image
    assert client.videos.download_content(job.id, variant="spritesheet").read()[:2] == b"\xff\xd8"
    remixed = client.videos.poll(client.videos.remix(job.id, prompt="blue").id, poll_interval_ms=20)
    assert (remixed.status, remixed.remixed_from_video_id, remixed.size) == ("completed", job.id, "64x64")
    assert [video.id for video in client.videos.list(limit=1)][:2] == [remixed.id, job.id]
    assert client.videos.delete(job.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.videos.retrieve(job.id)


def test_a_video_is_cancelled(client, server):
    job = client.videos.create(prompt="long", size="70x64", extra_body={"num_inference_steps": 1000})
    assert (job.size, job.notices) == ("64x64", ["width 70 is not a multiple of 16: 64 is used"])
    with server.http() as http:
        told = http.post(f"/v1/videos/{job.id}/cancel").json()
    assert (told["status"], told["error"]["code"]) == ("failed", "cancelled")
    with pytest.raises(openai.ConflictError, match="no content"):
        client.videos.download_content(job.id)


def test_errors_are_the_clients_own(client, png):
    with pytest.raises(openai.BadRequestError, match="height 9999 must be an integer from 16 to 256"):
        client.images.generate(prompt="x", size="9999x9999")
    with pytest.raises(openai.BadRequestError, match="no image or video known"):
        client.images.edit(image=b"nothing of the kind", prompt="x")
    with pytest.raises(openai.BadRequestError, match="unknown parameter 'colour'") as unknown:
        client.images.generate(prompt="x", extra_body={"colour": "red"})
    assert (unknown.value.code, unknown.value.param) == ("unknown_parameter", "colour")
    with pytest.raises(openai.BadRequestError, match="no negative prompt"):
        client.images.generate(prompt="x", extra_body={"negative_prompt": "ugly"})
    with pytest.raises(openai.BadRequestError, match="seconds 12 are 97 frames: this model makes 17 at most"):
        client.videos.create(prompt="x", seconds="12")
    with pytest.raises(openai.BadRequestError, match="there is no user message"):
        client.chat.completions.create(model="tiny", messages=[{"role": "system", "content": "x"}])
