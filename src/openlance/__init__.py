"""openlance: one native multimodal model that understands, generates and edits images and videos.

>>> from openlance import Lance
>>> lance = Lance.from_pretrained("nano")
>>> image = lance.generate_image("a blue star above a red circle")
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openlance.engine.session import Session
    from openlance.media.clip import Clip
    from openlance.pipeline import Lance, LanceNotice
    from openlance.sequence.tasks import TASKS

__version__ = "0.1.0"
__all__ = ["TASKS", "Clip", "Lance", "LanceNotice", "Session", "__version__"]

_HOMES = {
    "Lance": "openlance.pipeline",
    "LanceNotice": "openlance.pipeline",
    "Session": "openlance.engine.session",
    "Clip": "openlance.media.clip",
    "TASKS": "openlance.sequence.tasks",
}


def __getattr__(name: str) -> Any:
    """Import on first use: `import openlance` alone stays fast."""
    if name not in _HOMES:
        raise AttributeError(f"module 'openlance' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
