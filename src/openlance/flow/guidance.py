"""Classifier-free guidance on velocities: combining the branches of a request."""

from dataclasses import dataclass

import torch
from torch import Tensor

from openlance.errors import RequestError

RENORMS = ("global", "channel", "none")


@dataclass(frozen=True)
class Guidance:
    """How the branches are combined and when. Branches: full, without the prompt, without any condition."""

    scale: float = 4.0
    """Weight of the prompt; 1 or less switches its branch off."""
    visual_scale: float = 1.0
    """Weight of sources and references; 1 switches the unconditional branch off."""
    interval: tuple[float, float] = (0.4, 1.0)
    """Guidance acts at times in (low, high]."""
    renorm: str = "global"
    renorm_min: float = 0.0

    def __post_init__(self) -> None:
        if self.renorm not in RENORMS:
            raise RequestError(f"guidance_renorm '{self.renorm}' is not one of {', '.join(RENORMS)}")
        low, high = self.interval
        if not low <= high:
            raise RequestError(f"guidance_interval ({low}, {high}) must not be empty")

    def acts_at(self, time: float) -> bool:
        """Whether the step that starts at `time` is guided."""
        return (self.drops_prompt or self.drops_all) and self.interval[0] < time <= self.interval[1]

    @property
    def drops_prompt(self) -> bool:
        """Whether the branch without the prompt is needed."""
        return self.scale > 1 or self.drops_all

    @property
    def drops_all(self) -> bool:
        """Whether the branch without any condition is needed."""
        return self.visual_scale != 1

    def combine(self, full: Tensor, no_prompt: Tensor, no_condition: Tensor | None = None) -> Tensor:
        """The guided velocity (G, C) of the tokens that are updated.

        v' = v_p + g (v - v_p), and with a visual scale s: v' = v_0 + s (v_p - v_0) + g (v - v_p); then the renorm.
        """
        scale = max(self.scale, 1.0)
        guided = no_prompt + scale * (full - no_prompt)
        if no_condition is not None:
            guided = guided + (self.visual_scale - 1) * (no_prompt - no_condition)
        return renorm(guided, full, self.renorm, self.renorm_min)


def renorm(guided: Tensor, full: Tensor, kind: str, minimum: float) -> Tensor:
    """Shrink `guided` to the norm of `full`, never enlarging: over all tokens (`global`), each token (`channel`), or not."""
    if kind == "none":
        return guided
    dims = (-1,) if kind == "channel" else tuple(range(guided.ndim))
    wanted: Tensor = torch.linalg.vector_norm(full, dim=dims, keepdim=True)
    norm: Tensor = torch.linalg.vector_norm(guided, dim=dims, keepdim=True)
    return guided * (wanted / (norm + 1e-8)).clamp(minimum, 1.0)
