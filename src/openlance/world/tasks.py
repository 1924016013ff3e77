"""Seeded generators of examples for every task. `make_example` is the entry; CATEGORIES lists what there is.

The task names are those of the sequence table; "story" is several turns of them in one conversation.
"""

import random

from openlance.errors import LanceError
from openlance.world.draw import Draw, Maker, Setting
from openlance.world.edits import IMAGE_EDITS, VIDEO_EDITS
from openlance.world.examples import Example
from openlance.world.makers.clips import i2v, t2v
from openlance.world.makers.edits import image_edit, video_edit
from openlance.world.makers.pictures import (
    t2i_attribute,
    t2i_colour,
    t2i_count,
    t2i_dense,
    t2i_described,
    t2i_free,
    t2i_position,
    t2i_single,
    t2i_two,
    t2i_word,
)
from openlance.world.makers.questions import image_question, video_question
from openlance.world.makers.stories import story
from openlance.world.makers.subjects import subject_image, subject_video
from openlance.world.phrasings import Voice
from openlance.world.questions import IMAGE_QUESTIONS
from openlance.world.splits import SPLITS, splits
from openlance.world.video_questions import VIDEO_QUESTIONS

ATTEMPTS = 200
PICTURE = Setting()


def example_seed(index: int, split: str) -> int:
    """Seed of the index-th example of a split: training seeds lie below the evaluation range, all others in it."""
    first, last = splits().evaluation_seeds
    seed = index if split == "train" else first + index
    if index < 0 or (split == "train" and index >= first) or seed >= last:
        raise LanceError(f"index {index} of split {split!r} is outside its seeds: training has {first}, evaluation {last - first}")
    return seed


def make_example(task: str, category: str, index: int, setting: Setting = PICTURE) -> Example:
    """The index-th example of a category, the same on every machine.

    Raises LanceError for an unknown task, category or split, and where the setting has no room for the category (64 px hold one object).
    """
    if category not in CATEGORIES.get(task, {}):
        known = "; ".join(f"{t}: {', '.join(c)}" for t, c in CATEGORIES.items())
        raise LanceError(f"no category {category!r} of task {task!r}; the world has {known}")
    if setting.split not in SPLITS:
        raise LanceError(f"unknown split {setting.split!r}: choose one of {', '.join(SPLITS)}")
    seed = example_seed(index, setting.split)
    rng = random.Random(f"{task}/{category}/{seed}")
    draw = Draw(rng, Voice(rng, setting.split == "unseen phrasings", more=setting.more_phrasings), setting)
    for _ in range(ATTEMPTS):
        turns = CATEGORIES[task][category](draw)
        if turns:
            return Example(task, category, setting.split, seed, turns)
    raise LanceError(f"{task} {category!r} finds no example at {setting.height}x{setting.width}: use a larger canvas or another category")


CATEGORIES: dict[str, dict[str, Maker]] = {
    "t2i": {
        "single": t2i_single,
        "two": t2i_two,
        "count": t2i_count,
        "colour": t2i_colour,
        "position": t2i_position,
        "attribute": t2i_attribute,
        "dense": t2i_dense,
        "described": t2i_described,
        "word": t2i_word,
        "free": t2i_free,
    },
    "t2v": {"free": t2v},
    "i2v": {"free": i2v},
    "image_edit": {name: image_edit(name) for name in IMAGE_EDITS},
    "video_edit": {name: video_edit(name) for name in VIDEO_EDITS},
    "subject_image": {"free": subject_image},
    "subject_video": {"free": subject_video},
    "understand": {name: image_question(name) for name in IMAGE_QUESTIONS} | {f"video {n}": video_question(n) for n in VIDEO_QUESTIONS},
    "story": {"two turns": story(2, False), "three turns": story(3, False), "four turns": story(3, True)},
}
