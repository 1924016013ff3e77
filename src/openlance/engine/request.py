"""A request: validated inputs and sampling parameters with the model's defaults filled in."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from openlance.errors import RequestError
from openlance.flow.guidance import Guidance
from openlance.flow.solver import find_solver
from openlance.model.config import LanceConfig
from openlance.sequence.tasks import Task

if TYPE_CHECKING:
    from openlance.engine.history import History
    from openlance.engine.preprocess import Resolution
    from openlance.media import Clip

MAX_STEPS = 1000
MAX_SEED = 2**63 - 1
POSITION_MODES = ("consistent", "shipped")


@dataclass(frozen=True)
class ImageSampling:
    """How a latent is denoised. None takes the model's default. Names are those of diffusers where it has them."""

    num_inference_steps: int | None = None
    """Solver steps, 1 to 1000."""
    guidance_scale: float | None = None
    """Weight of the prompt; 1 switches guidance off and halves the work."""
    visual_guidance_scale: float = 1.0
    """Weight of sources and references against no condition at all; 1 switches it off."""
    guidance_interval: tuple[float, float] | None = None
    """Guidance acts at times in (low, high]; 1 is noise."""
    guidance_renorm: str | None = None
    """`global`, `channel` or `none`."""
    guidance_renorm_min: float | None = None
    timestep_shift: float | None = None
    """How much the schedule dwells on noise; 1 is even."""
    solver: str | None = None
    """`euler`, `heun` or `dpm++2m`."""
    guidance_positions: str = "consistent"
    """`shipped` repeats two slips of the released cached sampler, to reproduce published pictures exactly."""
    preview_every: int = 0
    """Give the progress callback a decoded preview every so many steps; 0: never."""

    def resolve(self, config: LanceConfig) -> "ImageSampling":
        """Defaults filled in from the model, everything checked. Raises RequestError."""
        defaults = config.sampling
        missing = {f.name: getattr(defaults, f.name) for f in dataclasses.fields(self) if getattr(self, f.name) is None}
        full = dataclasses.replace(self, **missing)
        _within("num_inference_steps", full.num_inference_steps, 1, MAX_STEPS)
        _within("guidance_scale", full.guidance_scale, 0, 100)
        _within("visual_guidance_scale", full.visual_guidance_scale, 0, 100)
        _within("timestep_shift", full.timestep_shift, 0.01, 100)
        _within("guidance_renorm_min", full.guidance_renorm_min, 0, 1)
        if full.guidance_positions not in POSITION_MODES:
            raise RequestError(f"guidance_positions '{full.guidance_positions}' is not one of {', '.join(POSITION_MODES)}")
        find_solver(str(full.solver))
        full.guidance()
        return full

    def guidance(self) -> Guidance:
        """The guidance of resolved parameters."""
        assert self.guidance_scale is not None
        assert self.guidance_interval is not None
        assert self.guidance_renorm is not None
        assert self.guidance_renorm_min is not None
        low, high = self.guidance_interval
        return Guidance(self.guidance_scale, self.visual_guidance_scale, (low, high), self.guidance_renorm, self.guidance_renorm_min)


@dataclass(frozen=True)
class TextSampling:
    """How text is decoded. Names are those of transformers."""

    max_new_tokens: int | None = None
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    """Strings that end the answer; they are not part of it."""

    def resolve(self, config: LanceConfig) -> "TextSampling":
        """Defaults filled in, everything checked. Raises RequestError."""
        limit = config.transformer.max_position_embeddings
        full = dataclasses.replace(self, max_new_tokens=self.max_new_tokens or config.sampling.max_new_tokens)
        _within("max_new_tokens", full.max_new_tokens, 1, limit)
        _within("temperature", full.temperature, 0, 100)
        _within("top_p", full.top_p, 1e-6, 1)
        return full


@dataclass(frozen=True)
class Progress:
    """One finished step of a request."""

    step: int
    total: int
    preview: "Clip | None" = None


@dataclass(frozen=True)
class Request:
    """One thing to produce. Sizes are of the output; None: the source's, or the model's default."""

    task: Task
    prompt: str = ""
    media: "tuple[Clip, ...]" = ()
    height: int | None = None
    width: int | None = None
    num_frames: int | None = None
    seed: int = 42
    image: ImageSampling = field(default_factory=ImageSampling)
    text: TextSampling = field(default_factory=TextSampling)
    system: str | None = None
    """Replaces the SYSTEM text of the model's templates."""
    resolution: "Resolution | None" = None
    history: "History | None" = None
    """The conversation that this request continues; it takes the finished turn in."""
    on_progress: Callable[[Progress], None] | None = None
    on_text: Callable[[str], None] | None = None

    def __post_init__(self) -> None:
        low, high = self.task.media
        if not low <= len(self.media) <= high:
            raise RequestError(f"task '{self.task.name}' takes {low} to {high} media and was given {len(self.media)}")
        if not isinstance(self.seed, int) or not 0 <= self.seed <= MAX_SEED:
            raise RequestError(f"seed {self.seed!r} must be an integer from 0 to {MAX_SEED}")
        if not isinstance(self.prompt, str):
            raise RequestError(f"prompt must be a string, not {type(self.prompt).__name__}")


def _within(name: str, value: Any, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise RequestError(f"{name} {value!r} must be a number from {low:g} to {high:g}")
