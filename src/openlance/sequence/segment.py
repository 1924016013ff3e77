"""A segment: a contiguous run of tokens of one kind, with the role it plays in the request."""

from dataclasses import dataclass, replace
from enum import StrEnum


class Kind(StrEnum):
    """What the tokens of a segment are."""

    TEXT = "text"
    VISION = "vision"
    LATENT = "latent"


class Role(StrEnum):
    """What a segment is for."""

    TEMPLATE = "template"
    """Fixed text: system, chat markers."""
    PROMPT = "prompt"
    SOURCE = "source"
    """What is edited or looked at."""
    REFERENCE = "reference"
    """A subject to keep."""
    TARGET = "target"
    """What is produced."""
    HISTORY = "history"
    """Whatever belongs to a finished turn."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment.

    Text: `ids` are its tokens. Vision and latent: `ids` are (start, pad, end) and the segment is start, one pad for each
    cell of `grid` (t, h, w) in that order, end. The frame tokens belong to the understanding expert also around latents.
    """

    kind: Kind
    role: Role
    ids: tuple[int, ...]
    grid: tuple[int, int, int] | None = None
    clean_frames: int = 0
    """Leading latent frames of a target that are given (image to video)."""
    medium: int | None = None
    """Which medium of the request fills it."""

    @property
    def cells(self) -> int:
        """Number of visual tokens without the two frame tokens; 0 for text."""
        if self.grid is None:
            return 0
        t, h, w = self.grid
        return t * h * w

    def __len__(self) -> int:
        return len(self.ids) if self.grid is None else self.cells + 2

    @property
    def two_way(self) -> bool:
        """Whether its tokens attend to each other both ways."""
        return self.kind is not Kind.TEXT

    @property
    def noised(self) -> bool:
        """Whether it is noise in the making, invisible to every other segment."""
        return self.kind is Kind.LATENT and self.role is Role.TARGET

    def tokens(self) -> tuple[int, ...]:
        """The token ids in sequence order."""
        if self.grid is None:
            return self.ids
        start, pad, end = self.ids
        return (start, *([pad] * self.cells), end)

    def as_role(self, role: Role) -> "Segment":
        return replace(self, role=role)


def without(segments: list[Segment], roles: frozenset[Role]) -> list[Segment]:
    """The sequence of a guidance branch, or of training with dropped conditions: everything but these roles."""
    return [segment for segment in segments if segment.role not in roles]


PROMPT_ROLES = frozenset({Role.PROMPT})
CONDITION_ROLES = frozenset({Role.PROMPT, Role.SOURCE, Role.REFERENCE})
