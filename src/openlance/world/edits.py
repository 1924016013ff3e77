"""Edits of scenes: a new scene, the instruction that asks for it, the facts it must show, and which regions may change."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from openlance.world.facts import Fact, What, relation_between, unique_descriptions
from openlance.world.language import BESIDE, an, place_phrase, synonym, the
from openlance.world.lexicon import SCENERY_PHRASES
from openlance.world.palette import (
    BACKGROUNDS,
    COLOURS,
    NATURAL,
    NATURAL_COLOURS,
    SCENERIES,
    SHAPES,
    TEXTURES,
    THINGS,
    second_colour,
    visible,
)
from openlance.world.phrasings import Voice
from openlance.world.sample import SPINNING, SceneOptions, allowed, fits, place_object, sample_looks, sample_word, word_height
from openlance.world.scene import Object, Scene, diameters, place_of
from openlance.world.splits import splits


@dataclass(frozen=True)
class Edit:
    """`before` describes what changes in the source, `after` what it becomes in the output; everything else must stay."""

    scene: Scene
    text: str
    facts: tuple[Fact, ...]
    before: What | None = None
    after: What | None = None


Editor = Callable[[Voice, Scene, SceneOptions], Edit | None]


def _pick(voice: Voice, scene: Scene, accept: Callable[[Object], bool] = lambda o: True) -> tuple[Object, What] | None:
    """An object that can be singled out in words and passes the test, with its description."""
    choices = [(o, w) for o in scene.objects if accept(o) for w in unique_descriptions(scene, o)[:3]]
    return voice.rng.choice(choices) if choices else None


def _swap(scene: Scene, old: Object, new: Object) -> Scene:
    return replace(scene, objects=tuple(new if o is old else o for o in scene.objects))


def look(o: Object) -> What:
    """Kind, colour and texture as a judge sees them; the texture of things is not spoken of."""
    return What(o.kind, o.colour, o.texture if o.kind in SHAPES else None)


def exact(what: What, scene: Scene) -> Fact:
    """Exactly as many as the scene has."""
    return Fact("object", str(sum(what.fits(o) for o in scene.objects)), what)


def _changed(voice: Voice, group: str, scene: Scene, change: tuple[Object, Object, What], **parts: str) -> Edit:
    """An edit of one object's looks: the new looks are there, the old ones gone (as far as the scene goes), its motion goes on."""
    old, new, what = change
    target = _swap(scene, old, new)
    moving = (Fact("motion", new.motion.kind, look(new)),) if new.motion.kind != "still" and not new.event else ()
    text = voice.say(group, x=the(voice, what), **parts)
    return Edit(target, capital(text), (exact(look(new), target), exact(look(old), target), *moving), look_at(old, what), look(new))


def look_at(o: Object, what: What) -> What:
    """The looks of an object with whatever else its description uses to single it out."""
    return replace(look(o), size=what.size, place=what.place)


def capital(text: str) -> str:
    """The text with a capital first letter."""
    return text[0].upper() + text[1:]


def edit_colour(voice: Voice, scene: Scene, options: SceneOptions) -> Edit | None:
    """One object takes another colour."""
    picked = _pick(voice, scene, lambda o: not (o.event and o.event.kind == "recolour"))
    if not picked:
        return None
    o, what = picked
    now = {o.colour, NATURAL_COLOURS.get(o.kind) if o.colour == NATURAL else None}
    colours = [c for c in COLOURS if c not in now and allowed(o.kind, c, scene.background, options.held)]
    if not colours:
        return None
    colour = voice.rng.choice(colours)
    return _changed(voice, "edit colour", scene, (o, replace(o, colour=colour), what), c=synonym(voice, colour))


def edit_kind(voice: Voice, scene: Scene, options: SceneOptions) -> Edit | None:
    """One object becomes another shape or thing of the same colour and texture."""
    picked = _pick(voice, scene)
    if not picked:
        return None
    o, what = picked
    family = SHAPES if o.kind in SHAPES else THINGS
    kinds = [k for k in family if k != o.kind and allowed(k, o.colour, scene.background, options.held if o.colour != NATURAL else "any")]
    kinds = [k for k in kinds if (o.motion.kind != "spin" or k in SPINNING) and not _parted(scene, o, k)]
    if not kinds:
        return None
    kind = voice.rng.choice(kinds)
    return _changed(voice, "edit kind", scene, (o, replace(o, kind=kind), what), y=an(voice, What(kind)))


def _parted(scene: Scene, old: Object, kind: str) -> bool:
    return splits().holds_together({kind, *(p.kind for p in scene.objects if p is not old)})


def edit_texture(voice: Voice, scene: Scene, options: SceneOptions) -> Edit | None:
    """One shape becomes solid, striped or dotted."""
    picked = _pick(voice, scene, lambda o: o.kind in SHAPES)
    if not picked:
        return None
    o, what = picked
    texture = voice.rng.choice([t for t in TEXTURES if t != o.texture])
    return _changed(voice, "edit texture", scene, (o, replace(o, texture=texture), what), t=synonym(voice, texture))


def edit_add(voice: Voice, scene: Scene, options: SceneOptions) -> Edit | None:
    """A new object at a named place or beside another object."""
    looks = _new_looks(voice, scene, options)
    if looks is None:
        return None
    new = place_object(voice.rng, scene, looks, replace(options, moving=False, named=0.8), tries=40)
    if new is None:
        return None
    target = replace(scene, objects=(*scene.objects, new))
    what = look(new)
    said = replace(what, colour=None if what.colour == NATURAL else what.colour, texture=None if what.texture == "solid" else what.texture)
    where, relation = "", tuple[Fact, ...]()
    neighbours = [(o, r) for o in scene.objects if not scene.moves and (r := relation_between(new, o)) and unique_descriptions(scene, o)]
    place = place_of(new.x, new.y)
    if neighbours and (place is None or voice.rng.random() < 0.4):
        other, name = voice.rng.choice(neighbours)
        described = unique_descriptions(scene, other)[0]
        where = f"{BESIDE[name]} {the(voice, described)}"
        relation = (Fact("relation", name, said, described),)
    elif place:
        where = place_phrase(voice, place)
        said = replace(said, place=place)
    else:
        return None
    text = capital(voice.say("edit add", y=an(voice, replace(said, place=None)), p=where))
    number = sum(said.fits(o) for o in target.objects)
    facts = (Fact("object", str(number), said), *relation)
    return Edit(target, text, facts, None, replace(what, place=place) if place else what)


def _new_looks(voice: Voice, scene: Scene, options: SceneOptions) -> tuple[str, str, str] | None:
    """Looks that no object of the scene has yet."""
    for _ in range(20):
        looks = sample_looks(voice.rng, scene.background, options)
        taken = any((o.kind, o.colour) == looks[:2] for o in scene.objects)
        if not taken and not splits().holds_together({looks[0], *(o.kind for o in scene.objects)}):
            return looks
    return None


def edit_remove(voice: Voice, scene: Scene, options: SceneOptions) -> Edit | None:
    """One object goes away."""
    picked = _pick(voice, scene)
    if not picked or (len(scene.objects) == 1 and scene.word is None):
        return None
    o, what = picked
    target = replace(scene, objects=tuple(p for p in scene.objects if p is not o))
    if scene.moves and not target.moves:
        return None
    text = capital(voice.say("edit remove", x=the(voice, what)))
    return Edit(target, text, (exact(look(o), target),), look_at(o, what))


def edit_replace(voice: Voice, scene: Scene, options: SceneOptions) -> Edit | None:
    """One object gives its place to another of new kind and colour."""
    picked = _pick(voice, scene, lambda o: not (o.event and o.event.kind == "recolour"))
    looks = _new_looks(voice, scene, options)
    if not picked or not looks or looks[0] == picked[0].kind:
        return None
    o, what = picked
    if o.motion.kind == "spin" and looks[0] not in SPINNING:
        return None
    new = replace(o, kind=looks[0], colour=looks[1], texture=looks[2])
    said = What(new.kind, None if new.colour == NATURAL else new.colour, None if new.texture == "solid" else new.texture)
    return _changed(voice, "edit replace", scene, (o, new, what), y=an(voice, said))


def edit_background(voice: Voice, scene: Scene, options: SceneOptions) -> Edit | None:
    """Another background on which everything can still be seen."""
    names = [b for b in (*BACKGROUNDS, *(SCENERIES if options.ring == 2 else ())) if b != scene.background and keeps_looks(scene, b)]
    if not names:
        return None
    background = voice.rng.choice(names)
    phrase = SCENERY_PHRASES.get(background) or synonym(voice, background)
    text = capital(voice.say("edit background", b=phrase))
    return Edit(replace(scene, background=background), text, (Fact("background", background),), What("background"), What("background"))


def keeps_looks(scene: Scene, background: str) -> bool:
    """True when every object and the word would stand out, and textures keep their second colour, on another background."""
    word = scene.word is None or visible(scene.word.colour, background)
    return word and all(_keeps(o, scene.background, background) for o in scene.objects)


def _keeps(o: Object, old: str, new: str) -> bool:
    colours = [o.colour] + ([o.event.colour] if o.event and o.event.colour else [])
    if not all(allowed(o.kind, c, new, "any") for c in colours):
        return False
    return o.texture == "solid" or all(second_colour(c, old) == second_colour(c, new) for c in colours)


def edit_size(voice: Voice, scene: Scene, options: SceneOptions) -> Edit | None:
    """One object becomes clearly bigger or smaller where it stands (moved only as far as the canvas asks)."""
    sizes = diameters(scene.height, scene.width)
    picked = _pick(voice, scene)
    if not picked or len(sizes) < 2 or picked[1].size:
        return None
    o, what = picked
    size = voice.rng.choice([s for s in sizes if max(sizes[s], o.diameter) / min(sizes[s], o.diameter) > 1.3] or [o.size])
    rest = replace(scene, objects=tuple(p for p in scene.objects if p is not o))
    new = replace(o, size=size, diameter=sizes[size] * voice.rng.uniform(1.0, 1.06))
    short = min(scene.height, scene.width)
    rx, ry = new.diameter / 2 * short / scene.width + 0.012, new.diameter / 2 * short / scene.height + 0.012
    new = replace(new, x=min(1 - rx, max(rx, new.x)), y=min(1 - ry, max(ry, new.y)))
    if size == o.size or not fits(rest, new):
        return None
    direction = "bigger" if new.diameter > o.diameter else "smaller"
    text = capital(voice.say(f"edit {direction}", x=the(voice, what)))
    target = _swap(scene, o, new)
    return Edit(target, text, (exact(look(o), target), Fact("size", direction, look_at(o, what), look(o))), look_at(o, what), look(o))


def edit_text(voice: Voice, scene: Scene, options: SceneOptions) -> Edit | None:
    """The word reads otherwise, takes another colour, or is written where there was none."""
    if scene.word is None:
        word = sample_word(voice.rng, scene.height, scene.width, scene.background, options.held, options.lattice)
        target = replace(scene, objects=(), word=word)
        if not all(fits(target, o) for o in scene.objects):
            return None
        place = voice.say("word place", p=word.place)
        text = voice.say("edit add word", w=word.text, c=synonym(voice, word.colour), p=place)
        facts = (Fact("word", word.text, What("word", word.colour, place=word.place)),)
        return Edit(replace(scene, word=word), text, facts, What("word"), What("word"))
    old = scene.word
    if voice.rng.random() < 0.3:
        colour = voice.rng.choice([c for c in COLOURS if c != old.colour and visible(c, scene.background)])
        new, text = replace(old, colour=colour), voice.say("edit word colour", c=synonym(voice, colour))
    else:
        other = sample_word(voice.rng, scene.height, scene.width, scene.background, options.held).text
        if other == old.text:
            return None
        new = replace(old, text=other, height=old.height if old.pitch else word_height(other, scene.height, scene.width))
        text = voice.say("edit word", w=other)
    facts = (Fact("word", new.text, What("word", new.colour, place=new.place)),)
    return Edit(replace(scene, word=new), capital(text), facts, What("word"), What("word"))


IMAGE_EDITS: dict[str, Editor] = {
    "colour": edit_colour,
    "kind": edit_kind,
    "texture": edit_texture,
    "add": edit_add,
    "remove": edit_remove,
    "replace": edit_replace,
    "background": edit_background,
    "size": edit_size,
    "text": edit_text,
}
VIDEO_EDITS: dict[str, Editor] = {k: IMAGE_EDITS[k] for k in ("colour", "kind", "texture", "add", "remove", "replace", "background")}
