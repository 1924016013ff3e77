"""A record: one training example of any task, as typed data. Everything that trains a model passes through this form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from openlance.errors import LanceError
from openlance.media.clip import Clip
from openlance.sequence.tasks import Task, find_task, infer_task

Frames = NDArray[np.uint8]
IMAGE, VIDEO = "image", "video"


class RecordError(LanceError):
    """A record that cannot be used; the message names it and says why."""


class Drawing(Protocol):
    """A medium that is drawn when it is looked at."""

    @property
    def fps(self) -> float: ...

    def pixels(self) -> Frames:
        """uint8 (F, H, W, 3)."""


@dataclass(frozen=True)
class Medium:
    """One image or video: its pixels, or where they are."""

    kind: str
    """`image` or `video`."""
    source: Clip | Path | bytes | Drawing

    def __post_init__(self) -> None:
        if self.kind not in (IMAGE, VIDEO):
            raise RecordError(f"a medium is '{IMAGE}' or '{VIDEO}', not '{self.kind}'")

    def clip(self) -> Clip:
        """The decoded frames. Raises MediaError naming the file."""
        if isinstance(self.source, Clip):
            return self.source
        if isinstance(self.source, Path | bytes):
            from openlance.media.read import read_image, read_video

            return read_image(self.source) if self.kind == IMAGE else read_video(self.source)
        return Clip(self.source.pixels(), self.source.fps)


@dataclass(frozen=True)
class Words:
    """What is said in an example, for media that are features already."""

    task: str
    text: str = ""
    answer: str | None = None
    system: str | None = None
    """Replaces the SYSTEM text of the task."""
    more: tuple[tuple[str, str], ...] = ()
    """Further (question, answer) pairs about the same media, each as if it were asked alone."""

    @property
    def definition(self) -> Task:
        return find_task(self.task)


@dataclass(frozen=True)
class Record:
    """One example: what a user gives (`text`, `media`) and what the model must make of it (`target` or `answer`)."""

    task: str
    text: str = ""
    media: tuple[Medium, ...] = ()
    target: Medium | None = None
    answer: str | None = None
    system: str | None = None
    """Replaces the SYSTEM text of the task."""
    id: str = ""

    def __post_init__(self) -> None:
        task = self.definition
        low, high = task.media
        if not low <= len(self.media) <= high:
            raise RecordError(f"record '{self.id}': task '{task.name}' takes {low} to {high} media, this has {len(self.media)}")
        wanted = "answer" if task.output == "text" else "target"
        given = [name for name in ("answer", "target") if getattr(self, name) is not None]
        if given != [wanted]:
            raise RecordError(f"record '{self.id}': task '{task.name}' needs {wanted} and nothing else to learn, this has {given}")

    @property
    def definition(self) -> Task:
        return find_task(self.task)

    @property
    def words(self) -> Words:
        return Words(self.task, self.text, self.answer, self.system)


def from_items(items: Sequence[tuple[str | Medium, bool]], subject: bool = False, **fields: Any) -> Record:
    """A record of interleaved items in any order, each with its target mark; the one marked item is what is learned.

    The texts that are given are joined in order; `subject` as in `infer_task`. A video after one image is an animation of it.
    """
    given = [item for item, is_target in items if not is_target]
    targets = [item for item, is_target in items if is_target]
    if len(targets) != 1:
        raise RecordError(f"an interleaved record has one item marked as target, not {len(targets)}")
    target = targets[0]
    media = tuple(item for item in given if isinstance(item, Medium))
    kinds = tuple(item.kind for item in media)
    output = "text" if isinstance(target, str) else target.kind
    first_frame = output == VIDEO and kinds == (IMAGE,) and not subject
    task = infer_task(output, kinds, first_frame, subject)
    text = " ".join(item for item in given if isinstance(item, str))
    learned = {"answer": target} if isinstance(target, str) else {"target": target}
    return Record(task.name, text, media, **learned, **fields)
