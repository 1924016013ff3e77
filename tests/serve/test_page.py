"""The page without a browser: what a turn says, shows and keeps; and that the page is served without anything from outside."""

import asyncio
import json
import re
import time

import numpy as np
import pytest

from openlance.apps.serve.web.conversation import MAX_WORKS, Conversation, plain
from openlance.apps.serve.web.page import NANO_NEXT, QUEUE_SECONDS
from openlance.apps.serve.web.turns import ASK, EDIT, IMAGE, VIDEO, Settings, Wish, run_turn
from openlance.media.read import read_media
from openlance.sequence.known_words import KnownWords
from openlance.world.palette import BACKGROUNDS


@pytest.fixture
def service(server):
    return server.server.app.state.service


@pytest.fixture
def talk():
    conversation = Conversation()
    yield conversation
    conversation.close()


def say(service, talk, mode, text, *files, animate=False, **settings) -> list:
    """Every state that the last message went through."""

    async def run():
        wish = Wish(mode, text, tuple(map(str, files)), animate, Settings(**settings))
        return [talk.messages[-1]["content"] async for _ in run_turn(service, talk, wish)]

    return asyncio.run(run())


def test_a_picture_sharpens_and_is_kept(service, talk, lance):
    states = say(service, talk, IMAGE, "a sun", seed=7, new_seed=False)
    bars = [part for state in states for part in state if isinstance(part, str) and "step" in part]
    previews = {part["path"] for state in states for part in state if isinstance(part, dict)}
    assert bars[-1].endswith("step 4 of 4")
    assert len(previews) >= 4
    image, caption = states[-1]
    assert caption.startswith("seed **7** · 64×64")
    assert np.array_equal(read_media(image["path"]).frames[0], np.asarray(lance.generate_image("a sun", seed=7)))
    assert talk.seed == 7
    assert talk.gallery() == [(image["path"], "a sun")]


def test_a_long_notice_does_not_push_the_picture_away(service, talk, monkeypatch):
    known = KnownWords(frozenset({"sun"}), {"things": tuple(f"thing{i}" for i in range(99))}, (3, 5))
    monkeypatch.setattr(service.worker.lance.binder, "known_words", known)
    image, _, unknown, folded = say(service, talk, IMAGE, "a <b> sun")[-1]
    assert image["path"]
    assert unknown.startswith("*The model has never met 'a' and 'b'")
    summary, _, rest = folded.partition("</summary>")
    assert summary.startswith("<details><summary>It knows things: thing0, thing1, ")
    assert len(summary) < 180 < len(rest)
    assert "thing98" in rest


def test_going_on_edits_the_last_picture(service, talk, lance):
    say(service, talk, IMAGE, "a sun", seed=1, new_seed=False)
    say(service, talk, EDIT, "at night", seed=2, new_seed=False)
    before, after = talk.pair
    assert (after, before) == (talk.gallery()[0][0], talk.gallery()[1][0])
    expected = lance.edit(lance.generate_image("a sun", seed=1), "at night", seed=2)
    assert np.array_equal(talk.source.clip.frames[0], np.asarray(expected))
    (answer,) = say(service, talk, ASK, "what is it?")[-1]
    assert answer == (plain(lance.ask(expected, "what is it?")) or "*(no words)*")


def test_what_is_dropped_becomes_the_source(service, talk, tmp_path, png, mp4, lance, film):
    (tmp_path / "a.png").write_bytes(png)
    (tmp_path / "b.mp4").write_bytes(mp4)
    say(service, talk, EDIT, "red", tmp_path / "b.mp4", seed=1, new_seed=False)
    assert talk.source.clip.num_frames == 9
    assert len(talk.messages[0]["content"]) == 2
    say(service, talk, VIDEO, "go", tmp_path / "a.png", num_frames=5, seed=3, new_seed=False)
    assert np.array_equal(talk.source.clip.frames, lance.generate_video("go", image=read_media(png), num_frames=5, seed=3).frames)


def test_a_clip_starts_from_the_source_only_when_asked(service, talk):
    say(service, talk, IMAGE, "a sun", seed=1, new_seed=False)
    say(service, talk, VIDEO, "go", num_frames=5, seed=3, new_seed=False)
    free = talk.source.clip.frames
    talk.choose(1)
    say(service, talk, VIDEO, "go", animate=True, num_frames=5, seed=3, new_seed=False)
    assert not np.array_equal(free, talk.source.clip.frames)


@pytest.mark.parametrize(
    ("mode", "text", "settings", "told"),
    [
        (EDIT, "blue", {}, "There is nothing to edit yet: make a picture first, or drop one here."),
        (IMAGE, "  ", {}, "Describe in a few words what you want."),
        (ASK, "", {}, "Type a question."),
        (IMAGE, "x", {"width": 9999}, "Width 9999 must be an integer from 16 to 256 pixels."),
        (IMAGE, "x", {"seed": -1, "new_seed": False}, "Seed -1 must be an integer"),
    ],
)
def test_errors_are_sentences(service, talk, mode, text, settings, told):
    (content,) = say(service, talk, mode, text, **settings)[-1]
    assert content.startswith("⚠️ ")
    assert told in content.replace("\\", "")
    assert "Traceback" not in content


def test_a_file_that_is_none(service, talk, tmp_path):
    (tmp_path / "x.png").write_bytes(b"no picture")
    (content,) = say(service, talk, ASK, "what?", tmp_path / "x.png")[-1]
    assert "no image or video known here" in content.replace("\\", "")
    assert [message["role"] for message in talk.messages] == ["user", "assistant"]


def test_closing_a_turn_cancels_its_request(service, talk):
    async def run():
        turn = run_turn(service, talk, Wish(IMAGE, "long", (), False, Settings(num_inference_steps=1000)))
        for _ in range(3):
            await anext(turn)
        assert not service.worker.idle
        await turn.aclose()
        while not service.worker.idle:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(run(), 30))
    assert talk.messages[-1]["content"] == ["*Stopped.*"]


def test_the_gallery_forgets_the_oldest(talk, picture):
    for i in range(MAX_WORKS + 3):
        talk.keep(picture, str(i))
    assert [caption for _, caption in talk.gallery()][:: MAX_WORKS - 1] == [str(MAX_WORKS + 2), "3"]


def test_words_are_shown_as_they_are():
    shown = plain("<script>alert(1)</script> *bold* [link](javascript:x) `code` ![i](http://x)")
    assert "<" not in shown
    assert not re.search(r"(?<!\\)[*`\[\]]", shown)


def test_what_is_suggested_is_of_the_world_of_the_embedded_model():
    (edit,) = [text for mode, text in NANO_NEXT if mode == EDIT]
    assert edit.split()[-2:] in [["background", name] for name in BACKGROUNDS]


def test_the_page_is_served_and_guarded(start):
    running = start(web=True, api_keys=("sesame",))
    with running.http(follow_redirects=True) as http:
        page = http.get("/")
        assert page.status_code == 200
        assert http.get("/favicon.ico").headers["content-type"] == "image/svg+xml"
        config = http.get("/ui/config")
        assert config.status_code == 401
        assert http.post("/ui/login", data={"username": "me", "password": "wrong"}).status_code == 400
        assert http.post("/ui/login", data={"username": "me", "password": "sesame"}).status_code == 200
        config = http.get("/ui/config").json()
        assert not any(dependency["api_visibility"] == "public" for dependency in config["dependencies"])
        assert "fonts.googleapis.com" not in http.get("/ui/").text
        for path in ("/etc/passwd", str(running.settings.data_dir / "videos" / "jobs.sqlite")):
            assert http.get(f"/ui/gradio_api/file={path}").status_code in (403, 404)


def test_a_page_that_nobody_uses_lets_the_event_loop_sleep(start, monkeypatch):
    from gradio.queueing import Queue

    looks = []
    length = Queue.__len__
    monkeypatch.setattr(Queue, "__len__", lambda queue: looks.append(0) or length(queue))
    with start(web=True).http() as http:
        http.get("/ui/config").raise_for_status()
        looks.clear()
        started = time.monotonic()
        time.sleep(0.6)
        most = (time.monotonic() - started) / QUEUE_SECONDS
    assert 0 < len(looks) <= most + 2


def test_a_path_in_a_message_is_not_opened(start, tmp_path, png):
    (tmp_path / "secret.png").write_bytes(png)
    with start(web=True).http() as http:
        config = http.get("/ui/config").json()
        turn = next(dependency for dependency in config["dependencies"] if dependency["targets"][0][1] == "submit")
        uploaded = http.post("/ui/gradio_api/upload", files={"files": ("mine.png", png)}).json()[0]
        for session, path, success in (("a", uploaded, True), ("b", str(tmp_path / "secret.png"), False)):
            message = {"text": "what?", "files": [{"path": path, "meta": {"_type": "gradio.FileData"}}]}
            values = [None, message, ASK, False, None, True, None, None, None, 4, 4, 3.5, 12, 0]
            body = {"data": values, "fn_index": turn["id"], "session_hash": session}
            http.post("/ui/gradio_api/queue/join", json=body).raise_for_status()
            with http.stream("GET", f"/ui/gradio_api/queue/data?session_hash={session}") as stream:
                events = [json.loads(line[5:]) for line in stream.iter_lines() if line.startswith("data:")]
            (end,) = [event for event in events if event["msg"] == "process_completed"]
            assert end["success"] == success, end
