"""From scenes to words: noun phrases, prompts with the facts they determine, and the captions the model is asked for."""

from collections import Counter
from dataclasses import dataclass, replace

from openlance.world.facts import NUMBERS, Fact, What, relation_between
from openlance.world.lexicon import PLACE_SYNONYMS, SCENERY_PHRASES, SYNONYMS, article, background_phrase, plural
from openlance.world.palette import NATURAL
from openlance.world.phrasings import Voice
from openlance.world.scene import Object, Scene, diameters, place_of

SYNONYM_SHARE = 0.12
AFTER_SHARE = 0.1
BESIDE = {"left of": "to the left of", "right of": "to the right of", "above": "above", "below": "below"}


@dataclass(frozen=True)
class Detail:
    """Which attributes a prompt speaks of."""

    texture: bool = True
    size: bool = False
    place: bool = False
    background: bool = True
    relation: bool = False


BRIEF = Detail(texture=False, background=False)
DENSE = Detail(texture=True, size=True, place=True, background=True)


def full_detail(scene: Scene) -> Detail:
    """Everything; sizes only on canvases where they can be told apart."""
    return replace(DENSE, size=len(diameters(scene.height, scene.width)) > 1)


def sample_detail(voice: Voice, scene: Scene) -> Detail:
    """A random level of detail; sizes are spoken of only on canvases where they can be told apart."""
    rng = voice.rng
    sized = len(diameters(scene.height, scene.width)) > 1 and rng.random() < 0.3
    relation = rng.random() < 0.5
    return Detail(rng.random() < 0.8, sized, not relation and rng.random() < 0.6, rng.random() < 0.75, relation)


def synonym(voice: Voice, name: str) -> str:
    """The name, or now and then one of its synonyms."""
    others = SYNONYMS.get(name) or PLACE_SYNONYMS.get(name)
    return voice.rng.choice(others) if others and voice.varies(SYNONYM_SHARE) else name


def noun_phrase(voice: Voice, what: What, count: int = 1, after_share: float = AFTER_SHARE) -> str:
    """A description without article: "small striped red circle"; attributes sometimes follow the noun. The place is not said here."""
    noun = synonym(voice, what.kind) if what.kind else "object"
    before, after = [], []
    if what.size:
        before.append(synonym(voice, what.size))
    if what.texture == "solid":
        before.append("solid")
    elif what.texture and voice.varies(after_share):
        after.append(voice.say(f"{what.texture} after"))
    elif what.texture:
        before.append(synonym(voice, what.texture))
    if what.colour and what.colour != NATURAL:
        if not after and voice.varies(after_share):
            after.append(voice.say("colour after", c=synonym(voice, what.colour)))
        else:
            before.append(synonym(voice, what.colour))
    return " ".join([*before, noun if count == 1 else plural(noun), *after])


def an(voice: Voice, what: What) -> str:
    """ "a red circle at the top left" """
    return article(noun_phrase(voice, what)) + _place_after(voice, what)


def the(voice: Voice, what: What) -> str:
    """ "the red circle at the top left" """
    return "the " + noun_phrase(voice, what, after_share=0.0) + _place_after(voice, what)


def _place_after(voice: Voice, what: What) -> str:
    return " " + place_phrase(voice, what.place) if what.place else ""


def place_phrase(voice: Voice, place: str) -> str:
    """ "at the top left" """
    return voice.say("place", p=synonym(voice, place))


def counted(voice: Voice, what: What, count: int) -> str:
    """ "a red circle", "three red circles" """
    if count == 1:
        return an(voice, what)
    number = str(count) if voice.varies(0.1) else NUMBERS[count]
    phrase = noun_phrase(voice, what, count)
    bare = not voice.held and (voice.plain or voice.rng.random() < 0.7)
    return f"{number} {phrase}" if bare else voice.say("count", n=number, x=phrase)


def relation_phrase(voice: Voice, a: str, relation: str, b: str) -> str:
    """Two noun phrases in a relation; "right of" and "below" are said from the other side, too."""
    if relation in ("right of", "below"):
        return voice.say({"right of": "left of", "below": "above"}[relation], a=b, b=a)
    return voice.say(relation, a=a, b=b)


def background_after(voice: Voice, background: str) -> str:
    """ "on a navy background", "with a beach behind" """
    if background in SCENERY_PHRASES:
        return voice.say("scenery", b=SCENERY_PHRASES[background])
    return voice.say("background", b=synonym(voice, background))


def listing(voice: Voice, items: list[str]) -> str:
    """ "a, b and c", or the other ways people join things."""
    if len(items) == 1:
        return items[0]
    style = 0.0 if voice.plain else voice.rng.random()
    if style < 0.6:
        return ", ".join(items[:-1]) + " and " + items[-1]
    return " and ".join(items) if style < 0.8 else ", ".join(items)


def what_of(o: Object, detail: Detail) -> What:
    """The description of an object that a level of detail says."""
    return What(
        o.kind,
        None if o.colour == NATURAL else o.colour,
        o.texture if detail.texture and o.texture != "solid" else None,
        o.size if detail.size else None,
        place_of(o.x, o.y) if detail.place else None,
    )


def object_fact(what: What, said: int, scene: Scene) -> Fact:
    """As many as said: exactly when a number was said and the scene has no more, else at least."""
    exact = said > 1 and what.count(scene) == said
    return Fact("object", str(said) if exact else f"{said}+", what)


def object_groups(scene: Scene, detail: Detail) -> list[tuple[What, int]]:
    """Objects that are described alike, with their number, in scene order."""
    return list(Counter(what_of(o, detail) for o in scene.objects).items())


def _background_facts(scene: Scene, detail: Detail) -> tuple[Fact, ...]:
    return (Fact("background", scene.background),) if detail.background else ()


def _word_item(voice: Voice, scene: Scene) -> tuple[list[str], tuple[Fact, ...]]:
    if scene.word is None:
        return [], ()
    word = scene.word
    place = voice.say("word place", p=word.place)
    text = voice.say("word", w=word.text, c=synonym(voice, word.colour), p=place)
    return [text], (Fact("word", word.text, What("word", word.colour, place=word.place)),)


def prompt(voice: Voice, scene: Scene, detail: Detail, group: str = "picture") -> tuple[str, tuple[Fact, ...]]:
    """A prompt for a still scene and everything it determines."""
    body, facts = scene_body(voice, scene, detail)
    return voice.say(group, x=body), facts


def scene_body(voice: Voice, scene: Scene, detail: Detail) -> tuple[str, tuple[Fact, ...]]:
    """Objects, word and background in running text, with the facts said."""
    groups = object_groups(scene, detail)
    facts = tuple(object_fact(what, n, scene) for what, n in groups)
    relation = relation_between(*scene.objects) if len(scene.objects) == 2 else None
    if detail.relation and relation and len(groups) == 2:
        a, b = groups[0][0], groups[1][0]
        items = [relation_phrase(voice, an(voice, replace(a, place=None)), relation, an(voice, replace(b, place=None)))]
        facts += (Fact("relation", relation, a, b),)
    else:
        items = [counted(voice, what, n) for what, n in groups]
    text, word_facts = _word_item(voice, scene)
    items = (items + text if voice.plain else voice.rng.choice((items + text, text + items))) if text else items
    body = listing(voice, items) if items else "an empty scene"
    if detail.background:
        behind = background_after(voice, scene.background)
        body = (
            f"{body} {behind}"
            if voice.plain or voice.rng.random() < 0.85 or not behind.startswith(("on", "against"))
            else f"{behind}, {body}"
        )
    return body, facts + word_facts + _background_facts(scene, detail)


def clip_prompt(voice: Voice, scene: Scene, detail: Detail, group: str = "clip") -> tuple[str, tuple[Fact, ...]]:
    """A prompt for a clip: what every object is and does."""
    items: list[str] = []
    facts: tuple[Fact, ...] = ()
    for o in scene.objects:
        what = what_of(o, detail)
        said = action_phrase(voice, o, an(voice, what))
        resting = o.motion.kind == "still" and o.event is None
        items.append(an(voice, what) if resting and voice.rng.random() < 0.6 else said)
        silent = resting and items[-1] != said
        facts += (Fact("object", "1+", what),) + (() if silent else action_facts(o, what))
    body = listing(voice, items)
    if detail.background:
        body = f"{body} {background_after(voice, scene.background)}"
    return voice.say(group, x=body), facts + _background_facts(scene, detail)


def action_phrase(voice: Voice, o: Object, subject: str) -> str:
    """ "a red circle moving left and then stopping" """
    said = deed_phrase(voice, o, subject)
    return voice.say("stop", x=said) if o.event and o.event.kind == "stop" else said


def deed_phrase(voice: Voice, o: Object, subject: str) -> str:
    """ "a red circle moving left": the event, or else the motion, whether it stops or not."""
    if o.event and o.event.kind != "stop":
        return voice.say(o.event.kind, x=subject, c=o.event.colour or "")
    return voice.say(o.motion.kind, x=subject)


def action_facts(o: Object, what: What) -> tuple[Fact, ...]:
    """What must be seen of an object's motion and event. Descriptions hold for the object's first visible frame."""
    if o.event and o.event.kind != "stop":
        new = What(colour=o.event.colour) if o.event.colour else None
        return (Fact("event", o.event.kind, what, new),)
    motion = Fact("motion", o.motion.kind, what)
    return (motion, Fact("event", "stop", what)) if o.event else (motion,)


ACTIONS = {
    "still": "standing still",
    "left": "moving left", "right": "moving right", "up": "moving up", "down": "moving down",
    "grow": "growing", "shrink": "shrinking", "spin": "spinning", "blink": "blinking", "bounce": "bouncing",
    "appear": "appearing", "disappear": "disappearing",
}  # fmt: skip


def action_name(o: Object) -> str:
    """The short answer to what an object does: "moving left", "turning red", "moving left and stopping"."""
    if o.event and o.event.kind == "recolour":
        return f"turning {o.event.colour}"
    if o.event and o.event.kind != "stop":
        return ACTIONS[o.event.kind]
    return ACTIONS[o.motion.kind] + (" and stopping" if o.event else "")


def plain_phrase(what: What) -> str:
    """The one canonical description used in answers: size, texture, colour, noun."""
    colour = None if what.colour == NATURAL else what.colour
    texture = None if what.texture == "solid" else what.texture
    return " ".join(p for p in (what.size, texture, colour, what.kind) if p)


def caption(scene: Scene, brief: bool) -> str:
    """The caption the model is asked for: canonical words, objects from top to bottom and left to right, motions in clips."""
    sized = len(diameters(scene.height, scene.width)) > 1
    detail = Detail(texture=not brief, size=sized and not brief, place=not brief)
    ordered = sorted(scene.objects, key=lambda o: (round(o.y * 3), o.x))
    items: list[str] = []
    if scene.moves:
        for o in ordered:
            items.append(f"{article(plain_phrase(what_of(o, replace(detail, place=False))))} {action_name(o)}")
    else:
        for what, n in object_groups(replace(scene, objects=tuple(ordered)), detail):
            phrase = plain_phrase(what)
            said = article(phrase) if n == 1 else f"{NUMBERS[n]} {phrase[: -len(what.kind or '')]}{plural(what.kind or '')}"
            items.append(said + (f" at the {what.place}" if what.place else ""))
    if scene.word and not scene.moves:
        colour = "" if brief else f"{scene.word.colour} "
        items.append(f'the {colour}word "{scene.word.text}"' + ("" if brief else f" at the {scene.word.place}"))
    body = ", ".join(items[:-1]) + " and " + items[-1] if len(items) > 1 else items[0] if items else "nothing"
    return body if brief else f"{body}, {background_caption(scene.background)}"


def background_caption(background: str) -> str:
    """ "on a navy background" """
    if background in SCENERY_PHRASES:
        return f"with {background_phrase(background)} behind"
    return f"on {article(background)} background"
