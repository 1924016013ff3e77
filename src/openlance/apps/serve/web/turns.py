"""A turn of the page: from what a visitor typed, dropped and picked, to a request, and its progress back into the conversation."""

import asyncio
import dataclasses
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openlance.apps.serve.errors import api_error
from openlance.apps.serve.service import SEED_BITS, Service
from openlance.apps.serve.sse import Feed
from openlance.apps.serve.web.conversation import Conversation, plain, shown
from openlance.errors import Cancelled, RequestError

if TYPE_CHECKING:
    from openlance.apps.serve.worker import Handle
    from openlance.engine.request import Progress, Request
    from openlance.media.clip import Clip

ASK, IMAGE, VIDEO, EDIT = "Ask", "Make image", "Make video", "Edit"
MODES = (ASK, IMAGE, VIDEO, EDIT)
PREVIEWS = 6
BAR = 16
LONG_NOTICE = 150
"""Characters: two lines of the page."""


@dataclass(frozen=True)
class Settings:
    """The folded settings, in the order of the page. None or 0: the model's default."""

    seed: float | None = None
    new_seed: bool = True
    width: float | None = None
    height: float | None = None
    num_frames: float | None = None
    num_inference_steps: float | None = None
    guidance_scale: float | None = None
    timestep_shift: float | None = None
    max_new_tokens: float | None = None
    temperature: float | None = None

    def pick_seed(self) -> int:
        """The seed of the next turn. Raises RequestError when it is none."""
        if self.new_seed or self.seed is None:
            return secrets.randbits(SEED_BITS)
        return int(self.seed)

    def parameters(self, output: str) -> dict[str, Any]:
        """Those that belong to `text`, `image` or `video`."""
        whole = {"text": ("max_new_tokens",), "image": ("width", "height", "num_inference_steps")}
        whole["video"] = (*whole["image"], "num_frames")
        real = {"text": ("temperature",), "image": ("guidance_scale", "timestep_shift")}
        real["video"] = real["image"]
        integers = {name: int(getattr(self, name)) for name in whole[output] if getattr(self, name)}
        return {**integers, **{name: float(getattr(self, name)) for name in real[output] if getattr(self, name) is not None}}


@dataclass(frozen=True)
class Wish:
    """What one turn is to do."""

    mode: str
    text: str
    files: tuple[str, ...]
    animate: bool
    settings: Settings


async def run_turn(service: Service, talk: Conversation, wish: Wish) -> AsyncGenerator[None, None]:
    """Carry `wish` out in `talk`, yielding whenever there is something new to see. Errors become sentences; closing cancels."""
    given: list[Clip] = []
    try:
        for path in wish.files:
            given.append(await service.media.from_bytes(await asyncio.to_thread(Path(path).read_bytes)))
        talk.say("user", *[shown(talk.store(clip), "what you gave") for clip in given], plain(wish.text))
        talk.say("assistant", "…")
        yield
        request = request_of(service, talk, wish, given)
        async for _ in _carry_out(service, talk, request):
            yield
    except (asyncio.CancelledError, GeneratorExit):
        talk.amend("*Stopped.*")
        raise
    except Exception as error:
        if not talk.messages or talk.messages[-1]["role"] != "assistant":
            talk.say("user", plain(wish.text) or "*(a file)*")
            talk.say("assistant", "…")
        stopped = isinstance(error, Cancelled) and "cancelled" in str(error)
        talk.amend("*Stopped.*" if stopped else f"⚠️ {plain(sentence(str(api_error(error).detail)))}")
        yield


def sentence(text: str) -> str:
    """A message of an error with a capital and a full stop."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def request_of(service: Service, talk: Conversation, wish: Wish, given: "Sequence[Clip]") -> "Request":
    """The engine's request of a wish. What was dropped becomes the source; without it the source stands in. Raises RequestError."""
    from openlance.sequence.tasks import infer_task

    if given:
        talk.bring(given[-1])
    about = list(given) or ([talk.source.clip] if talk.source else [])
    output = {ASK: "text", IMAGE: "image", VIDEO: "video"}.get(wish.mode) or ("image" if not about or about[-1].is_image else "video")
    if wish.mode == IMAGE or (wish.mode == VIDEO and not wish.animate):
        about = list(given)
    kinds = tuple("image" if clip.is_image else "video" for clip in about)
    if wish.mode == EDIT and not about:
        raise RequestError("there is nothing to edit yet: make a picture first, or drop one here")
    if not wish.text.strip():
        raise RequestError({ASK: "type a question"}.get(wish.mode, "describe in a few words what you want"))
    first_frame = wish.mode == VIDEO and kinds == ("image",)
    subject = wish.mode in (IMAGE, VIDEO) and bool(about) and not first_frame
    task = infer_task(output, kinds, first_frame=first_frame, subject=subject)
    parameters = wish.settings.parameters(output)
    if task.keeps_size and wish.mode == EDIT:
        parameters = {name: value for name, value in parameters.items() if name not in ("width", "height", "num_frames")}
    return service.worker.lance.request(task, wish.text, about, seed=wish.settings.pick_seed(), **parameters)


async def _carry_out(service: Service, talk: Conversation, request: "Request") -> AsyncIterator[None]:
    started = time.monotonic()
    feed: Feed[Any] = Feed()
    steps = request.image.resolve(service.worker.lance.config).num_inference_steps or 1
    image = dataclasses.replace(request.image, preview_every=max(1, steps // PREVIEWS))
    (handle,) = await service.submit([dataclasses.replace(request, on_progress=feed.put, on_text=feed.put, image=image)])
    talk.running = handle
    try:
        answer, picture = "", None
        if handle.future.done() is False and request.task.output != "text":
            talk.amend("Waiting for a place…")
            yield
        async for item in feed.items([handle]):
            if isinstance(item, str):
                answer += item
                talk.amend(plain(answer) + " ▌")
            else:
                picture = await asyncio.to_thread(_preview, talk, item) or picture
                talk.amend(picture, _bar(item))
            yield
        _conclude(talk, handle, time.monotonic() - started)
        yield
    finally:
        talk.running = None
        handle.cancel()


def _preview(talk: Conversation, progress: "Progress") -> dict[str, Any] | None:
    if progress.preview is None:
        return None
    return shown(talk.store(progress.preview, "webp"), f"preview after step {progress.step}")


def _notice(text: str) -> str:
    """A notice below a result; of a long one its beginning, to be opened, since it would push the result out of sight."""
    if len(text) <= LONG_NOTICE:
        return f"*{plain(text)}*"
    start = text[:LONG_NOTICE].rpartition(" ")[0]
    return f"<details><summary>{escape(start)} …</summary>{escape(text)}</details>"


def _bar(progress: "Progress") -> str:
    filled = round(BAR * progress.step / progress.total)
    return f"`{'█' * filled}{'░' * (BAR - filled)}` step {progress.step} of {progress.total}"


def _conclude(talk: Conversation, handle: "Handle", seconds: float) -> None:
    """The final message of a turn. Raises what the request raised."""
    result, request = handle.future.result(), handle.plan.request
    notices = [_notice(sentence(text)) for text in result.notices]
    if result.clip is None:
        talk.amend(plain(result.text or "") or "*(no words)*", *notices)
        return
    before = talk.source
    edited = request.task.keeps_size and before is not None and before.clip.is_image and result.clip.is_image
    work = talk.keep(result.clip, request.prompt[:80])
    talk.seed = request.seed
    talk.pair = (before.path, work.path) if edited and before else None
    size = f"{result.clip.width}×{result.clip.height}"
    length = "" if result.clip.is_image else f" · {result.clip.num_frames} frames"
    talk.amend(shown(work.path, request.prompt), f"seed **{request.seed}** · {size}{length} · {seconds:.1f} s", *notices)
