"""One visitor's conversation: what was said and made, what the next turn is about, and the files that show it."""

import html
import secrets
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openlance.media.encode import encode

if TYPE_CHECKING:
    from openlance.apps.serve.worker import Handle
    from openlance.media.clip import Clip

MAX_WORKS = 60
"""Results that the gallery keeps; the oldest go first."""


@dataclass(frozen=True)
class Work:
    """A picture or clip of the session with its file and what it came from."""

    clip: "Clip"
    path: str
    caption: str


@dataclass(eq=False)
class Conversation:
    """Messages in the chat's form, works in the gallery's, and the current source."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    works: list[Work] = field(default_factory=list)
    source: Work | None = None
    selected: int | None = None
    seed: int | None = None
    """Of the last result."""
    pair: tuple[str, str] | None = None
    """Files before and after the last edit of a picture."""
    running: "Handle | None" = None
    """The request of the turn that is under way."""
    _folder: tempfile.TemporaryDirectory[str] = field(default_factory=lambda: tempfile.TemporaryDirectory(prefix="openlance-page-"))

    def stop(self) -> None:
        """End the turn that is under way; it says so itself."""
        if self.running is not None:
            self.running.cancel()

    def close(self) -> None:
        self.stop()
        self._folder.cleanup()

    def store(self, clip: "Clip", kind: str | None = None) -> str:
        """The path of a new file with the clip: png or mp4, or `kind`."""
        kind = kind or ("png" if clip.is_image else "mp4")
        path = Path(self._folder.name) / f"{secrets.token_urlsafe(12)}.{kind}"
        path.write_bytes(encode(clip, kind))
        return str(path)

    def say(self, role: str, *content: Any) -> None:
        """Add a message of texts and files."""
        self.messages.append({"role": role, "content": [part for part in content if part]})

    def amend(self, *content: Any) -> None:
        """Replace what the last message says."""
        self.messages[-1] = {"role": "assistant", "content": [part for part in content if part]}

    def suggest(self, options: list[tuple[str, str]]) -> None:
        """Offer (value, label) choices below the last message, if it shows a result; earlier offers go."""
        for message in self.messages:
            message.pop("options", None)
        if self.messages and any(isinstance(part, dict) for part in self.messages[-1]["content"]):
            self.messages[-1]["options"] = [{"value": value, "label": label} for value, label in options]

    def keep(self, clip: "Clip", caption: str) -> Work:
        """Put a result into the gallery and make it the source."""
        work = Work(clip, self.store(clip), caption)
        self.works = [*self.works, work][-MAX_WORKS:]
        self.source = work
        return work

    def bring(self, clip: "Clip") -> None:
        """Make a medium from outside the source."""
        self.source = Work(clip, self.store(clip), "yours")

    def gallery(self) -> list[tuple[str, str]]:
        """(file, caption) of each work, newest first."""
        return [(work.path, work.caption) for work in reversed(self.works)]

    def choose(self, place: int | None) -> None:
        """Make a work of the gallery the source."""
        if place is not None and 0 <= place < len(self.works):
            self.source = self.works[-1 - place]


def shown(path: str, text: str) -> dict[str, Any]:
    """A file as part of a message."""
    return {"path": path, "alt_text": text}


def plain(text: str) -> str:
    """Words of a person or of the model as Markdown that shows exactly them."""
    escaped = html.escape(text, quote=False)
    return "".join(f"\\{c}" if c in r"\`*_{}[]()#+-.!|~$" else c for c in escaped).replace("\n", "  \n")
