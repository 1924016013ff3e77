"""The suites as data: which examples of the world they take and which number of a judged turn is their score."""

from dataclasses import dataclass, replace

from openlance.errors import LanceError
from openlance.world.draw import Setting

SEEN = Setting(split="test")
PAIRS = Setting(split="unseen pairs")
PHRASINGS = Setting(split="unseen phrasings")
WORDS = Setting(split="unseen words")


@dataclass(frozen=True)
class Suite:
    """Categories of one task of the world under some settings, all scored by the same number."""

    name: str
    title: str
    task: str
    categories: tuple[str, ...]
    settings: tuple[Setting, ...] = (SEEN,)
    """Settings under which each category has a line of its own."""
    pooled: tuple[Setting, ...] = ()
    """Settings under which the categories take turns and share a line."""
    score: str = "verdict"
    """Which of `openlance.eval.scores.SCORES` is the score."""
    pictures: int = 1
    """Answers a prompt, each from its own noise."""
    twin: str = ""
    """The public benchmark it is the twin of."""

    @property
    def cells(self) -> tuple["Cell", ...]:
        """Everything that gets a line of its own in the report (a story gets one a turn)."""
        single = [Cell(self, setting, (category,)) for setting in self.settings for category in self.categories]
        return (*single, *(Cell(self, setting, self.categories) for setting in self.pooled))


@dataclass(frozen=True)
class Cell:
    """One category, or several taking turns, under one setting."""

    suite: Suite
    setting: Setting
    categories: tuple[str, ...]

    @property
    def condition(self) -> str:
        """How the setting reads in a report: "ring 1, seen", "ring 2, unseen pairs", "ring 2, seen, 256x256"."""
        setting = self.setting
        parts = [f"ring {setting.ring}", "seen" if setting.split == "test" else setting.split]
        parts += [f"{setting.height}x{setting.width}"] if (setting.height, setting.width) != (SEEN.height, SEEN.width) else []
        return ", ".join(parts)

    @property
    def key(self) -> str:
        """Name in files and reports."""
        return f"{self.suite.name}/{self.condition}/{self.category}"

    @property
    def category(self) -> str:
        """The category, "all" for several."""
        return self.categories[0] if len(self.categories) == 1 else "all"


def second(setting: Setting) -> Setting:
    """The setting with the objects of both rings."""
    return replace(setting, ring=2)


BOTH = (SEEN, second(SEEN))
GENEVAL = ("single", "two", "count", "colour", "position", "attribute")
EDITS = ("colour", "kind", "texture", "add", "remove", "replace", "background", "size", "text")
VIDEO_EDITS = ("colour", "kind", "texture", "add", "remove", "replace", "background")
ASKS = ("what", "colour", "count", "position", "texture", "exists", "compare", "background")
VIDEO_ASKS = tuple(
    f"video {name}" for name in ("direction", "action", "who", "count moving", "order", "state change", "exists", "counterfactual")
)

SUITES: dict[str, Suite] = {
    suite.name: suite
    for suite in (
        Suite("generate", "text to image, shapes", "t2i", GENEVAL, (SEEN,), (PAIRS, PHRASINGS), pictures=4, twin="GenEval"),
        Suite(
            "generate2", "text to image, things and sceneries", "t2i", GENEVAL, (second(SEEN),), (second(PAIRS), second(PHRASINGS)),
            pictures=4, twin="GenEval",
        ),
        Suite("dense", "text to image, four objects with every attribute", "t2i", ("dense",), BOTH, twin="DPG-Bench"),
        Suite("large", "text to image, 256 px", "t2i", ("free",), (replace(second(SEEN), height=256, width=256),)),
        Suite("word", "words in pictures", "t2i", ("word",), (SEEN, WORDS), score="word"),
        Suite("video", "text to video", "t2v", ("free",), (*BOTH, PHRASINGS), twin="VBench"),
        Suite("animate", "first frame and text to video", "i2v", ("free",), (*BOTH, PHRASINGS)),
        Suite("edit", "changing a picture", "image_edit", EDITS, (SEEN,), (PHRASINGS, second(SEEN)), score="edit", twin="GEdit-Bench"),
        Suite("videoedit", "changing a clip", "video_edit", VIDEO_EDITS, (SEEN,), (second(SEEN),), score="kept"),
        Suite("subject", "a given subject in a new picture", "subject_image", ("free",), BOTH),
        Suite("subjectvideo", "a given subject in a new clip", "subject_video", ("free",), BOTH),
        Suite("ask", "questions about pictures", "understand", ASKS, (SEEN,), (PAIRS, PHRASINGS, second(SEEN))),
        Suite("askvideo", "questions about clips", "understand", VIDEO_ASKS, (SEEN,), (PHRASINGS, second(SEEN)), twin="MVBench"),
        Suite("ocr", "reading words", "understand", ("ocr",), (SEEN, WORDS)),
        Suite("grounding", "boxes of objects", "understand", ("grounding",), BOTH),
        Suite("caption", "descriptions", "understand", ("caption brief", "caption full", "video caption"), BOTH),
        Suite("multiturn", "stories of several turns", "story", ("four turns",), BOTH, score="state"),
    )
}  # fmt: skip


def find_suites(names: list[str] | None) -> list[Suite]:
    """Suites by name, all of them for none. Raises LanceError listing the names."""
    unknown = sorted(set(names or ()) - set(SUITES))
    if unknown:
        raise LanceError(f"unknown suite {', '.join(unknown)}: choose among {', '.join(SUITES)}")
    return [SUITES[name] for name in dict.fromkeys(names or SUITES)]
