"""The wording around a request: chat markers, and the SYSTEM text of each task as data of the checkpoint."""

import json
from dataclasses import dataclass
from pathlib import Path

from openlance.errors import CheckpointError

SYSTEM_START = "<|im_start|>system\n"
USER_START = "<|im_start|>user\n"
ASSISTANT_START = "<|im_start|>assistant\n"
TURN_END = "<|im_end|>"
LINE = "\n"


@dataclass(frozen=True)
class Templates:
    """SYSTEM texts by `task template / output kind`, e.g. `t2i/image`. templates.json: {"systems": {key: text}}."""

    systems: dict[str, str]

    def system(self, key: str, output: str) -> str:
        """The SYSTEM text of a task that produces `output` (image, video or text)."""
        name = f"{key}/{output}"
        if name not in self.systems:
            raise CheckpointError(f"templates.json has no SYSTEM text '{name}' (it has {sorted(self.systems)}): add it, or pass system=")
        return self.systems[name]

    @classmethod
    def load(cls, path: Path) -> "Templates":
        if not path.exists():
            raise CheckpointError(
                f"no {path.name} in {path.parent}: the wording a model was trained with is part of it; "
                "make it with  openlance templates --from PROMPT_MODULE.py"
            )
        values = json.loads(path.read_text(encoding="utf-8"))
        systems = values.get("systems") if isinstance(values, dict) else None
        if not isinstance(systems, dict) or not all(isinstance(text, str) for text in systems.values()):
            raise CheckpointError(f"{path} must hold {{'systems': {{'task/kind': 'text'}}}}")
        return cls(systems)

    def save(self, path: Path) -> None:
        path.write_text(json.dumps({"systems": self.systems}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


OWN_WORDING = Templates(
    {
        "t2i/image": "Draw.",
        "t2v/video": "Film.",
        "i2v/video": "Animate.",
        "edit/image": "Edit.",
        "edit/video": "Edit the clip.",
        "subject/image": "Draw the subject.",
        "subject/video": "Film the subject.",
        "understand/text": "Look and answer.",
        "text/text": "Answer.",
    }
)
"""Our own wording, the default of models that we train: short, since a small model pays for every token."""
