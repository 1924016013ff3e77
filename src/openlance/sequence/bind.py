"""Binding: a task, its texts and the sizes of its media become the list of segments of one sequence."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from openlance.errors import RequestError
from openlance.sequence.known_words import KnownWords
from openlance.sequence.segment import Kind, Role, Segment
from openlance.sequence.tasks import Task
from openlance.sequence.template import ASSISTANT_START, LINE, SYSTEM_START, TURN_END, USER_START, Templates
from openlance.sequence.tokenizer import Tokenizer

Grid = tuple[int, int, int]


@dataclass(frozen=True)
class MediumGrids:
    """Sizes of one medium in tokens: (t, h, w) of its vision block and of its latent block."""

    vision: Grid | None = None
    latent: Grid | None = None

    def of(self, kind: Kind) -> Grid:
        grid = self.vision if kind is Kind.VISION else self.latent
        if grid is None:
            raise RequestError(f"a {kind} block was asked of a medium that was prepared without one")
        return grid


class Binder:
    """Builds segments with one tokenizer and one wording. `known_words`: of a model whose language is closed, else None."""

    def __init__(self, tokenizer: Tokenizer, templates: Templates, known_words: KnownWords | None = None) -> None:
        self.tokenizer = tokenizer
        self.templates = templates
        self.known_words = known_words

    def save_wording(self, folder: Path) -> None:
        """Write templates.json and, of a closed language, words.json."""
        self.templates.save(folder / "templates.json")
        if self.known_words:
            self.known_words.save(folder / "words.json")

    def system(self, task: Task, text: str | None = None) -> list[Segment]:
        """The SYSTEM turn and the opening of the user's: one causal segment."""
        text = self.templates.system(task.template, task.output) if text is None else text
        encode, mark = self.tokenizer.encode, self.tokenizer.encode_template
        ids = mark(SYSTEM_START) + encode(text) + mark(TURN_END + LINE) + mark(USER_START)
        return [Segment(Kind.TEXT, Role.TEMPLATE, ids)]

    def blocks(self, task: Task, media: Sequence[MediumGrids], first_medium: int = 0) -> list[Segment]:
        """The user's media, each as the blocks its task asks for."""
        frame = self.tokenizer.frame
        return [
            Segment(kind, task.role, frame, grid=medium.of(kind), medium=first_medium + index)
            for index, medium in enumerate(media)
            for kind in task.blocks
        ]

    def prompt(self, text: str) -> list[Segment]:
        """The user's words (a segment of their own, so that guidance can drop exactly them), then the opening of the answer."""
        ids = self.tokenizer.encode(text)
        opening = self.tokenizer.encode_template(TURN_END + LINE + ASSISTANT_START)
        words = [Segment(Kind.TEXT, Role.PROMPT, ids)] if ids else []
        return [*words, Segment(Kind.TEXT, Role.TEMPLATE, opening)]

    def target(self, task: Task, grid: Grid) -> list[Segment]:
        """The latent that is produced."""
        return [Segment(Kind.LATENT, Role.TARGET, self.tokenizer.frame, grid=grid, clean_frames=task.clean_frames)]

    def answer(self, text: str) -> list[Segment]:
        """An answer as the target of training, closed by the end of its turn, which is learned too."""
        ids = self.tokenizer.encode(text) + (self.tokenizer.end_of_turn,)
        return [Segment(Kind.TEXT, Role.TARGET, ids)]

    def closing(self) -> list[Segment]:
        """The end of a turn whose target is a latent."""
        return [Segment(Kind.TEXT, Role.TEMPLATE, (self.tokenizer.end_of_turn,))]

    def next_turn(self) -> list[Segment]:
        """From the end of a finished turn to the opening of the user's next one."""
        return [Segment(Kind.TEXT, Role.HISTORY, self.tokenizer.encode_template(LINE + USER_START))]

    def bind(
        self, task: Task, prompt: str, media: Sequence[MediumGrids] = (), target: Grid | None = None, system: str | None = None
    ) -> list[Segment]:
        """A whole single-turn sequence up to what is to be produced.

        With `target` (latent grid) it ends in the target block and the closing; without, where an answer begins.
        """
        low, high = task.media
        if not low <= len(media) <= high:
            raise RequestError(f"task '{task.name}' takes {low} to {high} media and was given {len(media)}")
        blocks = self.blocks(task, media)
        segments = [*self.system(task, system), *blocks, *self.prompt(prompt)]
        if target is not None:
            segments += [*self.target(task, target), *self.closing()]
        return segments
