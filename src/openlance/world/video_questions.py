"""Questions about clips with short answers; now and then the four options of a multiple choice are given with the question."""

from dataclasses import replace

from openlance.world.facts import NUMBERS, unique_descriptions
from openlance.world.language import ACTIONS, action_name, deed_phrase, the
from openlance.world.palette import COLOURS, NATURAL
from openlance.world.phrasings import Voice
from openlance.world.questions import Asker, Question, answer_phrase, ask_caption, ask_exists, pick
from openlance.world.scene import Object, Scene, place_of

DIRECTIONS = ("left", "right", "up", "down")
WHO_VERBS = {
    "left": "moves left", "right": "moves right", "up": "moves up", "down": "moves down", "grow": "grows", "shrink": "shrinks",
    "spin": "spins", "blink": "blinks", "bounce": "bounces", "appear": "appears", "disappear": "disappears", "recolour": "changes colour",
}  # fmt: skip


def with_options(voice: Voice, question: Question, wrong: list[str]) -> Question:
    """The question with its answer hidden among up to three wrong options, in half of the cases."""
    if voice.rng.random() < 0.5 or not wrong:
        return question
    options = [question.answer, *voice.rng.sample(wrong, min(3, len(wrong)))]
    voice.rng.shuffle(options)
    return Question(voice.say("choices", q=question.text, o=", ".join(options)), question.answer)


def acts(o: Object) -> str | None:
    """The one thing an object does: its event, else its motion; None at rest."""
    if o.event and o.event.kind != "stop":
        return o.event.kind
    return None if o.motion.kind == "still" else o.motion.kind


def deed(voice: Voice, o: Object) -> str:
    """ "moves left"; a voice that knows more ways also says it as prompts do: "whirls", "is whirling around"."""
    if voice.more and voice.varies(0.7):
        words = deed_phrase(voice, o, "").strip()
        if words.startswith("that "):
            return words.removeprefix("that ")
        if words.split()[0].endswith("ing"):
            return f"is {words}"
    return WHO_VERBS[acts(o) or ""]


def ask_direction(voice: Voice, scene: Scene) -> Question | None:
    """Which way an object goes."""
    picked = pick(voice, scene, lambda o: o.motion.kind in DIRECTIONS)
    if not picked:
        return None
    o, what = picked
    question = Question(voice.say("ask direction", x=the(voice, what)), o.motion.kind)
    return with_options(voice, question, [d for d in DIRECTIONS if d != o.motion.kind])


def ask_action(voice: Voice, scene: Scene) -> Question | None:
    """What an object does: a motion, an event, or standing still."""
    picked = pick(voice, scene)
    if not picked:
        return None
    answer = action_name(picked[0])
    question = Question(voice.say("ask action", x=the(voice, picked[1])), answer)
    return with_options(voice, question, [a for a in ACTIONS.values() if a != answer])


def ask_who(voice: Voice, scene: Scene) -> Question | None:
    """The only object that does something."""
    done = [acts(o) for o in scene.objects]
    actors = [o for o in scene.objects if (a := acts(o)) and done.count(a) == 1 and unique_descriptions(scene, o)]
    if len(scene.objects) < 2 or not actors:
        return None
    o = voice.rng.choice(actors)
    names = {id(p): answer_phrase(unique_descriptions(scene, p)[0]) for p in scene.objects if unique_descriptions(scene, p)}
    question = Question(voice.say("ask who", v=deed(voice, o)), names.pop(id(o)))
    return with_options(voice, question, list(names.values()))


def ask_count_moving(voice: Voice, scene: Scene) -> Question | None:
    """How many objects leave their place."""
    if any(o.event or o.motion.kind in ("blink", "grow", "shrink", "spin") for o in scene.objects):
        return None
    number = sum(o.motion.kind != "still" for o in scene.objects)
    return Question(voice.say("ask count moving"), NUMBERS[number] if number else "zero")


def ask_order(voice: Voice, scene: Scene) -> Question | None:
    """Which of two objects appears, disappears or changes colour first."""
    for kind, verb in (("appear", "appears"), ("disappear", "disappears"), ("recolour", "changes colour")):
        both = [o for o in scene.objects if o.event and o.event.kind == kind]
        if len(both) == 2 and both[0].event and both[1].event and both[0].event.when != both[1].event.when:
            described = [next(iter(unique_descriptions(scene, o)), None) for o in both]
            first = described[0 if both[0].event.when < both[1].event.when else 1]
            a, b = voice.rng.sample(described, 2)
            if a and b and first:
                return Question(voice.say("ask order", e=verb, a=the(voice, a), b=the(voice, b)), answer_phrase(first))
    return None


def ask_new_colour(voice: Voice, scene: Scene) -> Question | None:
    """The colour an object changes to."""
    changing = [o for o in scene.objects if o.event and o.event.kind == "recolour"]
    if not changing:
        return None
    o = voice.rng.choice(changing)
    what = next((w for w in unique_descriptions(scene, o)), None)
    if what is None or o.event is None or o.event.colour is None:
        return None
    question = Question(voice.say("ask new colour", x=the(voice, what)), o.event.colour)
    return with_options(voice, question, [c for c in COLOURS if c not in (o.event.colour, NATURAL)])


def ask_counterfactual(voice: Voice, scene: Scene) -> Question | None:
    """Where a moving object would end had it stood still: where it starts."""
    picked = pick(voice, scene, lambda o: o.motion.kind in DIRECTIONS and place_of(o.x, o.y) is not None)
    if not picked:
        return None
    return Question(voice.say("ask counterfactual", x=the(voice, picked[1])), place_of(picked[0].x, picked[0].y) or "")


def ask_exists_moving(voice: Voice, scene: Scene) -> Question | None:
    """Whether something is in the clip; clips whose objects change colour are not asked about."""
    resting = replace(scene, objects=tuple(replace(o, event=None) for o in scene.objects))
    return None if any(o.event and o.event.kind == "recolour" for o in scene.objects) else ask_exists(voice, resting)


VIDEO_QUESTIONS: dict[str, Asker] = {
    "direction": ask_direction,
    "action": ask_action,
    "who": ask_who,
    "count moving": ask_count_moving,
    "order": ask_order,
    "state change": ask_new_colour,
    "exists": ask_exists_moving,
    "counterfactual": ask_counterfactual,
    "caption": lambda voice, scene: ask_caption(voice, scene, True),
}
