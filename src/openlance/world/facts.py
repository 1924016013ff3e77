"""What a prompt determines: descriptions of objects and facts about them, as plain data that judges check."""

from dataclasses import asdict, dataclass
from typing import Any

from openlance.world.scene import Object, Scene, diameters, place_of, still

NUMBERS = ("no", "one", "two", "three", "four", "five", "six")
RELATIONS = ("left of", "right of", "above", "below")
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
CLEAR_OFFSET = 0.2
"""Shares of the canvas two centres must be apart before a relation between them is ever said."""


@dataclass(frozen=True)
class What:
    """A description: every attribute that is not None must agree. `kind` may also be "word" or "background" where regions are listed."""

    kind: str | None = None
    colour: str | None = None
    texture: str | None = None
    size: str | None = None
    place: str | None = None

    def fits(self, o: Object) -> bool:
        """True when the description is true of an object at rest."""
        return (
            self.kind in (None, o.kind)
            and self.colour in (None, o.colour)
            and self.texture in (None, o.texture)
            and self.size in (None, o.size)
            and (self.place is None or self.place == place_of(o.x, o.y))
        )

    def count(self, scene: Scene) -> int:
        """How many objects of the first frame it is true of."""
        return sum(self.fits(o) for o in still(scene).objects)


@dataclass(frozen=True)
class Fact:
    """One thing that must be true of the output.

    about "object": `value` objects fit `what` (a number in digits). "relation": something fitting `what` is `value` something fitting
    `other`. "background": its name is `value`. "word": reads `value`, in `what.colour` and at `what.place` when given; the value "" asks
    for no word. "motion": what fits `what` moves as `value`. "event": what fits `what` at its best moment does `value`; of a recolouring,
    `other.colour` is the new colour.
    """

    about: str
    value: str
    what: What | None = None
    other: What | None = None

    @property
    def name(self) -> str:
        """Key of the fact in a verdict."""
        parts = [self.about, *(_short(w) for w in (self.what, self.other) if w), self.value]
        return " ".join(p for p in parts if p)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, empty ones left out."""
        return {"about": self.about, "value": self.value, **{k: what_dict(w) for k, w in (("what", self.what), ("other", self.other)) if w}}

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> "Fact":
        """Inverse of `to_dict`."""
        return cls(raw["about"], raw["value"], *(What(**raw[k]) if k in raw else None for k in ("what", "other")))


def what_dict(what: What) -> dict[str, str]:
    """The attributes that are given."""
    return {k: v for k, v in asdict(what).items() if v is not None}


def _short(what: What) -> str:
    return "-".join(what_dict(what).values())


def relation_between(a: Object, b: Object) -> str | None:
    """How a stands to b when it is plain to see: one axis clearly apart and clearly more than the other."""
    dx, dy = a.x - b.x, a.y - b.y
    if abs(dx) >= CLEAR_OFFSET and abs(dx) >= 1.5 * abs(dy):
        return "left of" if dx < 0 else "right of"
    if abs(dy) >= CLEAR_OFFSET and abs(dy) >= 1.5 * abs(dx):
        return "above" if dy < 0 else "below"
    return None


def unique_descriptions(scene: Scene, o: Object) -> list[What]:
    """Descriptions that single the object out among those of the scene, from short to long, all in the words people would use."""
    size = o.size if len(diameters(scene.height, scene.width)) > 1 and o.motion.kind not in ("grow", "shrink") else None
    candidates = [What(o.kind), What(o.kind, o.colour), What(o.kind, texture=o.texture), What(o.kind, size=size)]
    if not scene.moves:
        candidates.append(What(o.kind, place=place_of(o.x, o.y)))
    candidates.append(What(o.kind, o.colour, o.texture, size))
    return [w for w in candidates if _sayable(w) and sum(w.fits(other) for other in scene.objects) == 1]


def _sayable(what: What) -> bool:
    """A description that adds nothing ("the natural cat", "the solid circle", "the ... at no place") is not said."""
    return what == What(what.kind) or any(
        (what.colour not in (None, "natural"), what.texture not in (None, "solid"), what.size is not None, what.place is not None)
    )
