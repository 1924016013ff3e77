"""A conversation: each turn asks, generates or edits; the last picture or clip is what the next turn is about."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from openlance.engine.history import History
from openlance.errors import RequestError
from openlance.media.clip import Clip
from openlance.sequence.tasks import Task, infer_task

if TYPE_CHECKING:
    from openlance.engine.engine import Result
    from openlance.engine.request import Request


class Runner(Protocol):
    """What a session needs of whoever runs its turns."""

    def read(self, medium: Any) -> Clip:
        """A clip from whatever a user has."""

    def request(self, task: Task | str, prompt: str, media: Sequence[Clip] = (), **parameters: Any) -> "Request":
        """A validated request."""

    def run(self, requests: "Sequence[Request]") -> "list[Result]":
        """Results of requests, in order."""


@dataclass(frozen=True)
class Turn:
    """One finished turn: what was asked of which media, and what came of it."""

    request: "Request"
    result: "Result"


@dataclass
class Session:
    """Turns on one model. With `history` all earlier turns are part of each turn's sequence, and their keys and values are kept."""

    lance: Runner
    history: History | None = None
    """Earlier turns as part of each turn's sequence; None: every turn stands alone with its source."""
    turns: list[Turn] = field(default_factory=list)
    source: Clip | None = None
    """The picture or clip that the next edit or question is about."""

    def show(self, medium: Any) -> None:
        """Make an image or a video from outside the source of the next turn."""
        self.source = self.lance.read(medium)

    def ask(self, question: str, media: Sequence[Any] = (), **parameters: Any) -> str:
        """Answer a question about `media`, or about the current source. A first medium given here becomes the source."""
        clips = tuple(self.lance.read(medium) for medium in media) or ((self.source,) if self.source else ())
        if clips:
            self.source = clips[-1]
        task = infer_task("text", tuple(kind_of(clip) for clip in clips))
        result = self._turn(self.lance.request(task, question, clips, **parameters))
        return result.text or ""

    def generate(self, prompt: str, output: str = "image", **parameters: Any) -> Clip:
        """Make a new image or video, which becomes the source."""
        return self._produce(self.lance.request(infer_task(output, ()), prompt, (), **parameters))

    def animate(self, prompt: str, **parameters: Any) -> Clip:
        """Make a video that starts from the current image."""
        return self._produce(self.lance.request(infer_task("video", ("image",), first_frame=True), prompt, (self._need(),), **parameters))

    def edit(self, instruction: str, **parameters: Any) -> Clip:
        """Change the current picture or clip; the result becomes the source."""
        source = self._need()
        kind = kind_of(source)
        return self._produce(self.lance.request(infer_task(kind, (kind,)), instruction, (source,), **parameters))

    def undo(self) -> None:
        """Forget the last turn and take up the source it started from. Raises RequestError with `history`, which only grows."""
        if not self.turns or self.history is not None:
            raise RequestError("there is no turn to undo" if not self.turns else "a session with history cannot undo: start another")
        turn = self.turns.pop()
        self.source = turn.request.media[-1] if turn.request.media else None

    def _need(self) -> Clip:
        if self.source is None:
            raise RequestError("there is no picture or clip yet: generate one, or show() one")
        return self.source

    def _produce(self, request: "Request") -> Clip:
        clip = self._turn(request).clip
        assert clip is not None
        self.source = clip
        return clip

    def _turn(self, request: "Request") -> "Result":
        (result,) = self.lance.run([replace(request, history=self.history)])
        self.turns.append(Turn(replace(request, on_progress=None, on_text=None), result))
        return result


def kind_of(clip: Clip) -> str:
    """`image` or `video`."""
    return "image" if clip.is_image else "video"
