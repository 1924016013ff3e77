"""What a generator of examples works with: a setting, a seeded source of chance, a voice."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from openlance.world.arrange import arrange, newcomers_in_the_middle
from openlance.world.examples import Medium, Turn
from openlance.world.phrasings import Voice
from openlance.world.sample import SceneOptions, in_columns, sample_scene
from openlance.world.scene import Scene


@dataclass(frozen=True)
class Setting:
    """Size, ring and split of the examples, lattice, motions and events (see SceneOptions). Every split but "train" draws seeds from
    the evaluation range.

    `arranged`: where a prompt leaves the places of objects open they stand in reading order (see `arrange`), else anywhere; a word that
    an edit writes has its letters in columns; what appears after a first frame does so in the middle. `given_anywhere`: what is given
    (a first frame, a subject, what is edited) lies on no lattice, as what people bring does not; what the words leave open still does.
    `more_phrasings`: said in further ways too (`more_phrasings`), as only training is. `fewest_objects`: in clips, those of a subject
    and of two events aside, as far as a task has as many.
    """

    height: int = 128
    width: int = 128
    num_frames: int = 17
    fps: float = 8.0
    ring: int = 1
    split: str = "train"
    lattice: int = 0
    arranged: bool = False
    motions: Mapping[str, float] = field(default_factory=dict, hash=False)
    events: float = SceneOptions.events
    more_phrasings: bool = False
    given_anywhere: bool = False
    fewest_objects: int = 1


@dataclass(frozen=True)
class Draw:
    """What a generator works with."""

    rng: random.Random
    voice: Voice
    setting: Setting

    def scene(self, **wishes: object) -> Scene:
        """A scene of the setting; `wishes` are fields of SceneOptions."""
        return sample_scene(self.rng, self.setting.height, self.setting.width, self.options(**wishes))

    def options(self, **wishes: object) -> SceneOptions:
        """Options of the setting's ring and split."""
        held = {"unseen pairs": "unseen", "unseen words": "unseen"}.get(self.setting.split, "seen")
        s = self.setting
        options = SceneOptions(ring=s.ring, held=held, lattice=s.lattice, motions=s.motions, events=s.events)
        return replace(options, **wishes)  # type: ignore[arg-type]

    @property
    def given(self) -> dict[str, object]:
        """Wishes of a scene that is given."""
        return {"lattice": 0} if self.setting.given_anywhere else {}

    def arrange(self, scene: Scene, related: bool = False) -> Scene:
        """The scene, its objects in reading order if the setting says so."""
        return arrange(scene, related) if self.setting.arranged else scene

    def welcome(self, scene: Scene) -> Scene:
        """The scene with what appears in it where newcomers usually do, if the setting says so."""
        return newcomers_in_the_middle(scene) if self.setting.arranged else scene

    def edited(self, before: Scene, after: Scene) -> Scene:
        """The scene after an edit; a word that did not stand there before is in columns if the setting says so."""
        word = after.word
        if not self.setting.arranged or word is None or (before.word and before.word.text == word.text):
            return after
        return replace(after, word=in_columns(word, after.height, after.width))

    def image(self, scene: Scene) -> Medium:
        """The scene as a picture."""
        return Medium(scene, self.setting.height, self.setting.width)

    def clip(self, scene: Scene) -> Medium:
        """The scene as a clip."""
        return Medium(scene, self.setting.height, self.setting.width, self.setting.num_frames, self.setting.fps)


Maker = Callable[[Draw], tuple[Turn, ...] | None]
"""Draws the turns of an example of one category, or None where the scene that came has no room for it."""
