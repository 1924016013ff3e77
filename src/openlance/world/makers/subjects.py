"""The object of a picture elsewhere: in a new picture, in a clip."""

from dataclasses import replace

from openlance.world.arrange import at_place
from openlance.world.draw import Draw
from openlance.world.edits import keeps_looks
from openlance.world.examples import Turn
from openlance.world.facts import Fact, What
from openlance.world.language import action_facts, action_phrase, an, background_after, place_phrase
from openlance.world.palette import BACKGROUNDS, NATURAL
from openlance.world.sample import place_object, sample_background, sample_looks, stands_out
from openlance.world.scene import Object, Scene, diameters, place_of
from openlance.world.splits import splits


def _subject(draw: Draw) -> tuple[Scene, Scene] | None:
    """A picture of one object, and the empty scene before another background where it is to come."""
    background = draw.rng.choice(list(BACKGROUNDS))
    size = list(diameters(draw.setting.height, draw.setting.width))[-1]
    reference = draw.scene(objects=(1, 1), background=background, size=size, **draw.given)
    if not reference.objects:
        return None
    background = sample_background(draw.rng, draw.setting.ring)
    if not _same_on(reference.objects[0], reference.background, background):
        return None
    return reference, draw.scene(objects=(0, 0), background=background)


def subject_image(draw: Draw) -> tuple[Turn, ...] | None:
    """The object of a picture at another place, before another background, perhaps with company."""
    subject = _subject(draw)
    if subject is None:
        return None
    reference, scene = subject
    o = reference.objects[0]
    placed = _at_a_place(draw, scene, o.looks)
    if placed is None or (place := place_of(placed.x, placed.y)) is None:
        return None
    scene = replace(scene, objects=(placed,))
    look = What(o.kind, o.colour, o.texture)
    parts, facts = [place_phrase(draw.voice, place)], [Fact("object", "1+", replace(look, place=place))]
    company = _company(draw, scene) if draw.rng.random() < 0.4 else None
    if company:
        scene = replace(scene, objects=company)
        _, other = company
        what = What(other.kind, None if other.colour == NATURAL else other.colour, None)
        parts.append(f"with {an(draw.voice, what)}")
        facts.append(Fact("object", "1+", what))
    parts.append(background_after(draw.voice, scene.background))
    facts.append(Fact("background", scene.background))
    text = draw.voice.say("subject", r=" ".join(parts))
    return (Turn("subject_image", text, (draw.image(reference),), draw.image(scene), facts=tuple(facts)),)


def _at_a_place(draw: Draw, scene: Scene, looks: tuple[str, str, str]) -> Object | None:
    """In arranged pictures in the middle of the place, as large as fits there, for the words say no size."""
    if draw.setting.arranged:
        return at_place(scene, looks, _middle(draw.rng.random()), _middle(draw.rng.random()))
    return place_object(draw.rng, scene, looks, draw.options(named=1.0, held="any", size=None))


def _middle(share: float) -> float:
    """Of the third of a side in which this share of it lies."""
    return (2 * int(3 * share) + 1) / 6


def _company(draw: Draw, scene: Scene) -> tuple[Object, Object] | None:
    """The object and another that the words name without a place: in arranged pictures across from the first, both small."""
    options = draw.options(held="seen", textures=0.0)
    looks = sample_looks(draw.rng, scene.background, options)
    (first,) = scene.objects
    kinds = {looks[0], first.kind}
    if len(kinds) < 2 or splits().holds_together(kinds):
        return None
    if draw.setting.arranged:
        alone = at_place(replace(scene, objects=()), first.looks, _middle(first.x), _middle(first.y), crowded=True)
        scene = replace(scene, objects=(alone,) if alone else ())
        other = at_place(scene, looks, _middle(1 - first.x), _middle(1 - first.y), crowded=True)
        return (alone, other) if alone and other else None
    other = place_object(draw.rng, scene, looks, options)
    return (first, other) if other else None


def _same_on(o: Object, old: str, new: str) -> bool:
    """True when the object looks the same and is seen on both backgrounds."""
    return old != new and stands_out(o.kind, o.colour, new) and keeps_looks(Scene(128, 128, old, (o,)), new)


def subject_video(draw: Draw) -> tuple[Turn, ...] | None:
    """The object of a picture in motion before another background."""
    subject = _subject(draw)
    if subject is None:
        return None
    reference, scene = subject
    o = reference.objects[0]
    moved = place_object(draw.rng, scene, o.looks, draw.options(moving=True, events=0.0, held="any"), active=True)
    if moved is None:
        return None
    scene = draw.arrange(replace(scene, objects=(moved,)))
    (moved,) = scene.objects
    what = What(o.kind, o.colour, o.texture)
    rest = f"{action_phrase(draw.voice, moved, '')} {background_after(draw.voice, scene.background)}".strip()
    facts = (Fact("object", "1+", what), *action_facts(moved, what), Fact("background", scene.background))
    text = draw.voice.say("subject clip", r=rest)
    return (Turn("subject_video", text, (draw.image(reference),), draw.clip(scene), facts=facts),)
