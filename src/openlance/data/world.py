"""The synthetic world as a data source: an index is a seed, a seed is an example."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from math import inf
from random import Random
from typing import Any

from openlance.data.records import IMAGE, VIDEO, Medium, Record, Words
from openlance.errors import LanceError
from openlance.sequence.tasks import TASKS
from openlance.world.draw import Setting
from openlance.world.examples import Example, Turn
from openlance.world.examples import Medium as WorldMedium
from openlance.world.facts import What
from openlance.world.language import BRIEF, Detail, an, clip_prompt, full_detail, object_groups, prompt, sample_detail
from openlance.world.makers.clips import MOST_OBJECTS
from openlance.world.palette import MOTIONS
from openlance.world.phrasings import Voice
from openlance.world.questions import IMAGE_QUESTIONS
from openlance.world.sample import ALWAYS_POSSIBLE, SceneOptions
from openlance.world.scene import Scene
from openlance.world.tasks import CATEGORIES, make_example
from openlance.world.video_questions import VIDEO_QUESTIONS

OF_CLIPS = ("motions", "events", "fewest_objects")
"""What a setting says of clips alone."""


def asks_of_clips(category: str) -> bool:
    """Whether a category of questions is about clips."""
    return category.startswith("video ")


@dataclass(frozen=True)
class WorldData:
    """Examples of one task of the world at one size.

    `categories`: share of each category, all alike when empty. `story` gives its turns as examples of their own tasks.
    `lattice`, `motions` (for clips in which one motion is harder than others) and `events`: see SceneOptions; `arranged`,
    `more_phrasings`, `given_anywhere` and `fewest_objects`: see Setting. What is of clips alone is refused where a task has none.
    Cached examples whose words follow from the scene alone are reworded anyway (`Rephrase`).
    """

    task: str
    categories: dict[str, float] | None = None
    height: int = 128
    width: int = 128
    num_frames: int = 17
    fps: float = 8.0
    ring: int = 1
    lattice: int = 0
    arranged: bool = False
    motions: dict[str, float] = field(default_factory=dict)
    events: float = SceneOptions.events
    more_phrasings: bool = False
    given_anywhere: bool = False
    fewest_objects: int = 1

    def __post_init__(self) -> None:
        unknown = sorted(set(self.shares()) - set(CATEGORIES.get(self.task, {})))
        if self.task not in CATEGORIES or unknown:
            known = {task: list(categories) for task, categories in CATEGORIES.items()}
            raise LanceError(f"the world has no task '{self.task}' with categories {unknown}; it has {known}")
        if self.lattice < 0:
            raise LanceError(f"lattice {self.lattice} must be a number of px, or 0 for none")
        if not 0 <= self.events <= 1:
            raise LanceError(f"events {self.events} must be a share from 0 to 1")
        if not 1 <= self.fewest_objects <= MOST_OBJECTS:
            raise LanceError(f"fewest_objects {self.fewest_objects} must be from 1 to {MOST_OBJECTS}, the most that a clip has")
        for motion, weight in self.motions.items():
            if motion not in MOTIONS[1:] or not 0 <= weight < inf:
                raise LanceError(f"motions {{{motion}: {weight}}} must be a weight from 0 of one of {', '.join(MOTIONS[1:])}")
        if self.motions and not any(self.motions.get(motion, 1.0) for motion in ALWAYS_POSSIBLE):
            raise LanceError(f"motions {self.motions} leave objects without one: give one of {', '.join(ALWAYS_POSSIBLE)} a weight")
        asked = [name for name in OF_CLIPS if getattr(self, name) != getattr(Setting(), name)]
        if asked and not self._has_clips():
            raise LanceError(f"task '{self.task}' with categories {sorted(self.shares())} has no clips: leave out {', '.join(asked)}")

    def shares(self) -> Mapping[str, float]:
        return self.categories or dict.fromkeys(CATEGORIES.get(self.task, {}), 1.0)

    def _has_clips(self) -> bool:
        task = TASKS.get(self.task)  # None: a story, which may end in a clip
        return task is None or task.output == "video" or any(map(asks_of_clips, self.shares()))

    @property
    def _setting(self) -> Setting:
        return Setting(**{f.name: getattr(self, f.name) for f in fields(Setting) if f.name != "split"})

    def example(self, index: int) -> Example:
        """The example of a training index, the same on every machine."""
        shares = self.shares()
        (category,) = Random(f"category/{index}").choices(list(shares), list(shares.values()))
        return make_example(self.task, category, index, self._setting)


def record_of(turn: Turn, name: str = "") -> Record:
    """A turn of an example as a record whose media are drawn when they are looked at."""
    media = tuple(_medium(medium) for medium in turn.inputs)
    return Record(turn.task, turn.text, media, None if turn.target is None else _medium(turn.target), turn.answer, id=name)


def _medium(medium: WorldMedium) -> Medium:
    return Medium(IMAGE if medium.num_frames == 1 else VIDEO, medium)


class Rephrase:
    """Words a cached example of the world anew from its scene, where the scene alone decides what can be said.

    Instructions of edits and subjects stay as they are: what changes is not in a scene. `questions`: how many are asked about a medium
    at once, the first of the example's own category, the others of any. `category`: all of them are of this one; `plain` says a thing
    always in one way.
    """

    def __init__(self, questions: int = 1, category: str | None = None, plain: bool = False) -> None:
        self.questions = questions
        self.category = category
        self.plain = plain

    def __call__(self, entry: Mapping[str, Any], rng: Random) -> Words:
        again = REWORDINGS.get(entry["task"])
        if again is None or not entry.get("scene"):
            return Words(entry["task"], entry["text"], entry["answer"], entry["system"])
        scene, voice = Scene.from_dict(entry["scene"]), Voice(rng, plain=self.plain, more=True)
        text, answer = again(self.category or entry["category"], scene, voice) or (entry["text"], entry["answer"])
        more = _further(self._asked(entry), scene, voice, self.questions - 1) if answer is not None else ()
        return Words(entry["task"], text, answer, entry["system"], more)

    def _asked(self, entry: Mapping[str, Any]) -> list[str]:
        """Categories of the questions after the first."""
        if self.category:
            return [self.category]
        of_clips = asks_of_clips(entry["category"])
        return [name for name in CATEGORIES["understand"] if asks_of_clips(name) == of_clips]


def _further(asked: list[str], scene: Scene, voice: Voice, count: int) -> tuple[tuple[str, str], ...]:
    """Questions of these categories about a scene, fewer where it has not as many."""
    found: list[tuple[str, str]] = []
    for name in voice.rng.choices(asked, k=3 * count):
        said = _question(name, scene, voice) if scene.objects or name == "ocr" else None
        if said and said[1] is not None and len(found) < count:
            found.append((said[0], said[1]))
    return tuple(found)


Said = tuple[str, str | None] | None


def _picture(category: str, scene: Scene, voice: Voice) -> Said:
    if category in ("single", "two"):
        names = [an(voice, What(o.kind)) for o in scene.objects]
        return voice.say("picture", x=" and ".join(names)), None
    detail = {
        "count": lambda: BRIEF,
        "colour": lambda: BRIEF,
        "attribute": lambda: BRIEF,
        "position": lambda: replace(BRIEF, relation=True),
        "dense": lambda: full_detail(scene),
        "described": lambda: full_detail(scene),
    }.get(category, lambda: sample_detail(voice, scene))()
    countable = all(n == 1 or what.count(scene) == n for what, n in object_groups(scene, detail))
    return (prompt(voice, scene, detail)[0], None) if countable else None


def _clip(category: str, scene: Scene, voice: Voice) -> Said:
    detail = replace(sample_detail(voice, scene), place=False, relation=False, size=False)
    return clip_prompt(voice, scene, detail)[0], None


def _first_frame(category: str, scene: Scene, voice: Voice) -> Said:
    return clip_prompt(voice, scene, Detail(texture=False, background=False), "first frame")[0], None


def _question(category: str, scene: Scene, voice: Voice) -> Said:
    ask = VIDEO_QUESTIONS[category.removeprefix("video ")] if asks_of_clips(category) else IMAGE_QUESTIONS[category]
    question = ask(voice, scene)
    return (question.text, question.answer) if question else None


REWORDINGS: dict[str, Callable[[str, Scene, Voice], Said]] = {"t2i": _picture, "t2v": _clip, "i2v": _first_frame, "understand": _question}
"""By the name of a task of the world: how its words follow from a category and a scene."""
