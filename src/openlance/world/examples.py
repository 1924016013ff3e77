"""A task example as plain data: what is given, what is asked, what must come out. Pixels are drawn when they are looked at."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openlance.errors import LanceError
from openlance.world.facts import Fact, What, what_dict
from openlance.world.render import render, render_clip
from openlance.world.scene import Scene, check_canvas

MAX_FRAMES, MAX_FPS = 257, 120
"""Of a clip that is read from a file."""


@dataclass(frozen=True)
class Medium:
    """An image (num_frames 1) or a clip of a scene, drawn on demand."""

    scene: Scene
    height: int
    width: int
    num_frames: int = 1
    fps: float = 8.0

    def pixels(self) -> NDArray[np.uint8]:
        """uint8 (F, H, W, 3)."""
        if self.num_frames == 1:
            return render(self.scene, self.height, self.width)[None]
        return render_clip(self.scene, self.height, self.width, self.num_frames, self.fps)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        size = {"height": self.height, "width": self.width, "num_frames": self.num_frames, "fps": self.fps}
        return {**size, "scene": self.scene.to_dict()}

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> "Medium":
        """Inverse of `to_dict`. Raises LanceError for a name that the world does not know, or a size beyond it."""
        medium = cls(Scene.from_dict(raw["scene"]), raw["height"], raw["width"], raw["num_frames"], raw["fps"])
        check_canvas(medium.height, medium.width)
        if not (1 <= medium.num_frames <= MAX_FRAMES and 0 < medium.fps <= MAX_FPS):
            raise LanceError(f"a clip of {medium.num_frames} frames at {medium.fps:g} a second: up to {MAX_FRAMES}, at up to {MAX_FPS}")
        return medium


@dataclass(frozen=True)
class Turn:
    """One request and its right outcome: `target` of tasks that make media, `answer` of tasks that make text.

    `facts` must be true of the output. In an edit `before` describes the object of the source that changes, `after` what it becomes (kind
    "background" or "word" for those); whatever else the source shows must stay as it is.
    """

    task: str
    text: str
    inputs: tuple[Medium, ...] = ()
    target: Medium | None = None
    answer: str | None = None
    facts: tuple[Fact, ...] = ()
    before: What | None = None
    after: What | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "task": self.task,
            "text": self.text,
            "inputs": [m.to_dict() for m in self.inputs],
            "target": self.target.to_dict() if self.target else None,
            "answer": self.answer,
            "facts": [f.to_dict() for f in self.facts],
            "before": what_dict(self.before) if self.before else None,
            "after": what_dict(self.after) if self.after else None,
        }

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> "Turn":
        """Inverse of `to_dict`."""
        return cls(
            raw["task"],
            raw["text"],
            tuple(Medium.from_dict(m) for m in raw["inputs"]),
            Medium.from_dict(raw["target"]) if raw["target"] else None,
            raw["answer"],
            tuple(Fact.from_dict(f) for f in raw["facts"]),
            What(**raw["before"]) if raw["before"] else None,
            What(**raw["after"]) if raw["after"] else None,
        )


@dataclass(frozen=True)
class Example:
    """One or, in stories, up to four turns. The later turns of a story start from the target of the turn before."""

    task: str
    category: str
    split: str
    seed: int
    turns: tuple[Turn, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """A name for every turn, which no other example of the world has and which may be that of a file."""
        name = "_".join(part.replace(" ", "-") for part in (self.task, self.category, self.split, str(self.seed)))
        return (name,) if len(self.turns) == 1 else tuple(f"{name}_{number}" for number in range(1, len(self.turns) + 1))

    @property
    def text(self) -> str:
        """The first turn's prompt, instruction or question."""
        return self.turns[0].text

    @property
    def inputs(self) -> tuple[Medium, ...]:
        """The first turn's given media."""
        return self.turns[0].inputs

    @property
    def target(self) -> Medium | None:
        """The first turn's right output, None when it is text."""
        return self.turns[0].target

    @property
    def answer(self) -> str | None:
        """The first turn's right answer, None when the output is not text."""
        return self.turns[0].answer

    @property
    def facts(self) -> tuple[Fact, ...]:
        """What must be true of the first turn's output."""
        return self.turns[0].facts

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        turns = [turn.to_dict() for turn in self.turns]
        return {"task": self.task, "category": self.category, "split": self.split, "seed": self.seed, "turns": turns}

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> "Example":
        """Inverse of `to_dict`."""
        return cls(raw["task"], raw["category"], raw["split"], raw["seed"], tuple(Turn.from_dict(t) for t in raw["turns"]))
