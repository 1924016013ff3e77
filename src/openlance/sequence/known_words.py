"""What a model of a small, closed language has words for, as data of the checkpoint: a prompt with others is answered, with a notice."""

import difflib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openlance.errors import CheckpointError

WORD = re.compile(r"\w+(?:['’-]\w+)*")
QUOTED = re.compile(r'"([^"]*)"|“([^”]*)”')
MOST_TOLD = 6
LONGEST_TOLD = 24


@dataclass(frozen=True)
class KnownWords:
    """words.json: {"words": [word, ...], "knows": {group: [name, ...]}, "letters": [3, 5]}."""

    words: frozenset[str]
    """Every word of the language, lower case."""
    knows: dict[str, tuple[str, ...]]
    """What to tell people who use others."""
    letters: tuple[int, int]
    """Fewest and most capitals, A to Z, of a text in quotes, which is written into pictures letter by letter."""

    def notices(self, prompt: str) -> tuple[str, ...]:
        """What a prompt says that the model has no words for, and then what it has words for. Nothing where it knows them all."""
        texts = [one or other for one, other in QUOTED.findall(prompt)]
        odd = [text for text in dict.fromkeys(texts) if not self._can_write(text)]
        unknown = [word for word in dict.fromkeys(WORD.findall(QUOTED.sub(" ", prompt))) if word.lower() not in self.words]
        found = []
        if odd:
            fewest, most = self.letters
            told = _listed(odd, _short)
            found.append(f"in quotes the model writes {fewest} to {most} capital letters, A to Z, not {told}")
        if unknown:
            told = _listed(unknown, self._with_guess)
            known = "; ".join(f"{group}: {', '.join(names)}" for group, names in self.knows.items())
            found.append(f"the model has never met {told}: what it cannot read it passes over, or takes for something else")
            found.append(f"it knows {known}")
        return tuple(found)

    def _can_write(self, text: str) -> bool:
        fewest, most = self.letters
        return fewest <= len(text) <= most and text.isascii() and text.isalpha() and text.isupper()

    def _with_guess(self, word: str) -> str:
        near = difflib.get_close_matches(word.lower(), self.words, 1, 0.8) if len(word) <= LONGEST_TOLD else []
        return _short(word) + (f" ({near[0]}?)" if near else "")

    @classmethod
    def load(cls, path: Path) -> "KnownWords":
        """Raises CheckpointError where the file is something else."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            words, knows, letters = values["words"], values["knows"], values["letters"]
            if not (_texts(words) and isinstance(knows, dict) and all(map(_texts, knows.values())) and _limits(letters)):
                raise TypeError("of other types")
        except (ValueError, KeyError, TypeError) as error:
            form = '{"words": [...], "knows": {"group": [...]}, "letters": [fewest, most]}'
            raise CheckpointError(f"{path} must hold {form} ({error!r}): copy it again, or remove it") from error
        return cls(frozenset(words), {group: tuple(names) for group, names in knows.items()}, (letters[0], letters[1]))

    def save(self, path: Path) -> None:
        values = {"words": sorted(self.words), "knows": self.knows, "letters": self.letters}
        path.write_text(json.dumps(values, ensure_ascii=False) + "\n", encoding="utf-8")


def _listed(texts: list[str], show: Callable[[str], str]) -> str:
    parts = [show(text) for text in texts[:MOST_TOLD]]
    if len(texts) > MOST_TOLD:
        parts.append(f"{len(texts) - MOST_TOLD} more")
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _short(text: str) -> str:
    text = " ".join(text.split())
    return f"'{text}'" if len(text) <= LONGEST_TOLD else f"'{text[:LONGEST_TOLD]}…'"


def _texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def _limits(values: Any) -> bool:
    return isinstance(values, list) and len(values) == 2 and all(isinstance(value, int) for value in values)
