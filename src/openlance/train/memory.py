"""What memory a process needs for training, from a configuration alone: no weight is read, and none has to fit.

What is kept between two steps is counted to the byte; activations are an estimate of what the layers keep for the way back.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from openlance.model.config import LanceConfig
from openlance.model.lance import LanceModel
from openlance.train.lora import LoraRecipe
from openlance.train.optim import OptimRecipe, moved_by_muon
from openlance.train.parallel import ParallelRecipe
from openlance.train.prepare import freeze
from openlance.weights.empty import build_empty
from openlance.weights.load import build_model

FLOAT32 = 4
GATHERED_LAYERS = 2
"""Of a split model: the layer that is computed and the next one, which is on its way."""
PROMPT_TOKENS = 256
"""Beside the latent tokens of a row, for the estimate of its mask."""


@dataclass(frozen=True)
class Mode:
    """What learns."""

    name: str
    experts: tuple[str, ...]
    lora: LoraRecipe | None = None


MODES = (
    Mode("full", ("understanding", "generation")),
    Mode("generation expert", ("generation",)),
    Mode("LoRA on the generation expert", ("generation",), LoraRecipe()),
)


@dataclass(frozen=True)
class Weight:
    """A parameter of a model, or of an adapter on it."""

    name: str
    shape: tuple[int, ...]
    learns: bool

    @property
    def encoder(self) -> bool:
        """Encoders are whole on every process."""
        return self.name.startswith(("vision.", "autoencoder."))

    def numel(self, ranks: int = 1) -> int:
        """Elements on the first of `ranks` that split it, which has the most."""
        return -(-self.shape[0] // ranks) * math.prod(self.shape[1:])


@dataclass(frozen=True)
class Setting:
    """How a model is trained: precision, optimiser, and the processes that share it."""

    precision: str = "bfloat16"
    optim: OptimRecipe = field(default_factory=OptimRecipe)
    parallel: ParallelRecipe = field(default_factory=ParallelRecipe)
    ranks: int = 1
    tokens: int = 8192
    """Of one pass, both streams."""
    row: int | None = None
    """Tokens that see each other; by default those of a picture of the default size with its prompt."""
    passes: int = 4
    """Of one step, on each process."""


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes of one process. The first five stay from step to step or, gradients, until the update; the others come and go."""

    weights: int
    masters: int
    """float32 copies that are updated; none where the weights are float32 themselves, as the rows of a split model are."""
    state: int
    """Of the optimiser."""
    average: int
    gradients: int
    accumulated: int
    """Whole float32 gradients of a split model, summed over its passes before they are exchanged."""
    gathered: int
    """Of a split model what is whole at one time: weights that are put together, gradients that are exchanged."""
    activations: int
    update: int
    """More than `gradients` that float32 gradients take during the update."""

    @property
    def static(self) -> int:
        return self.weights + self.masters + self.state + self.average + self.gradients

    @property
    def peak(self) -> int:
        return self.static + max(self.update, self.accumulated + self.gathered + self.activations)


def weights_of(config: LanceConfig, mode: Mode) -> list[Weight]:
    """All parameters of a model that is trained in a mode, adapters behind those of the model."""
    model: LanceModel = build_empty(lambda: build_model(config))
    freeze(model, mode.experts)
    found = [(name, tuple(parameter.shape), parameter.requires_grad) for name, parameter in model.named_parameters()]
    if mode.lora is None:
        return [Weight(*each) for each in found]
    lora = mode.lora
    pattern = re.compile(rf"(.*layers\.\d+\.(?:{'|'.join(mode.experts)})\.(?:{'|'.join(lora.targets)}))\.weight")
    adapted = [(match[1], shape) for name, shape, _ in found if (match := pattern.fullmatch(name))]
    return [
        *(Weight(name, shape, False) for name, shape, _ in found),
        *(Weight(f"{layer}.lora_A.default.weight", (lora.rank, shape[1]), True) for layer, shape in adapted),
        *(Weight(f"{layer}.lora_B.default.weight", (shape[0], lora.rank), True) for layer, shape in adapted),
    ]


def memory_of(weights: Sequence[Weight], config: LanceConfig, setting: Setting) -> TrainingMemory:
    """What the process with the most to keep needs."""
    split = setting.parallel.shard
    ranks = setting.ranks // setting.parallel.replicas if split else 1
    item = _item(setting)
    learners = [weight for weight in weights if weight.learns]
    frozen = sum(weight.numel(1 if weight.encoder else ranks) for weight in weights if not weight.learns)
    learning = sum(weight.numel(ranks) for weight in learners)
    whole = sum(weight.numel() for weight in learners)
    muon = [weight for weight in learners if setting.optim.kind == "muon" and moved_by_muon(weight.name, len(weight.shape))]
    adamw = [weight for weight in learners if weight not in muon]
    # AdamW keeps two moments and the number of steps, a float32 a weight; Muon its momentum.
    state = sum(2 * FLOAT32 * weight.numel(ranks) + FLOAT32 for weight in adamw) + sum(FLOAT32 * weight.numel(ranks) for weight in muon)
    own = FLOAT32 if split else item
    return TrainingMemory(
        weights=frozen * item + learning * own,
        masters=0 if own == FLOAT32 else learning * FLOAT32,
        state=state,
        average=learning * FLOAT32 if setting.optim.ema else 0,
        gradients=learning * own,
        accumulated=whole * FLOAT32 if split and setting.passes > 1 and not setting.parallel.reduce_every_pass else 0,
        gathered=_gathered(weights, config, item) if split else 0,
        activations=activation_bytes(config, setting),
        update=learning * (FLOAT32 - own),
    )


def _gathered(weights: Sequence[Weight], config: LanceConfig, item: int) -> int:
    """What is outside the layers and two of them, in the precision of the computation; of the gradients what is outside the layers and
    one of them, as they come and in float32 as they are exchanged."""
    depth = config.transformer.num_hidden_layers
    learners = [weight for weight in weights if weight.learns]
    return item * _together(weights, min(GATHERED_LAYERS, depth), depth) + (item + FLOAT32) * _together(learners, 1, depth)


def _together(weights: Sequence[Weight], layers: int, depth: int) -> int:
    """Elements outside the layers and in `layers` of them."""
    inside = sum(weight.numel() for weight in weights if weight.name.startswith("transformer.layers."))
    outside = sum(weight.numel() for weight in weights if not weight.encoder) - inside
    return outside + inside * layers // depth


def activation_bytes(config: LanceConfig, setting: Setting) -> int:
    """What all layers keep of a pass for the way back. Logits of answers are not in it, see `answer_bytes`."""
    sizes = config.transformer
    item = _item(setting)
    layer = item * setting.tokens * _layer_width(config, setting)
    if not setting.parallel.activation_checkpointing:
        return sizes.num_hidden_layers * layer
    return sizes.num_hidden_layers * item * setting.tokens * sizes.hidden_size + layer


def _item(setting: Setting) -> int:
    return 2 if setting.precision == "bfloat16" else FLOAT32


def _layer_width(config: LanceConfig, setting: Setting) -> int:
    """Numbers of one token in one layer: two residual streams and their norms; heads before and after their norm and rotation, and what
    they mix; gate and up, the activated gate and its product; the token's part of the mask, which a fused kernel keeps as numbers."""
    sizes = config.transformer
    query, key = sizes.num_attention_heads * sizes.head_dim, sizes.num_key_value_heads * sizes.head_dim
    row = setting.row or PROMPT_TOKENS + math.prod(config.latent_grid(1, *config.media.image_size))
    return 4 * sizes.hidden_size + 2 * (query + 2 * key) + query + 4 * sizes.intermediate_size + row


def answer_bytes(config: LanceConfig, item: int) -> int:
    """Of one answer token: its logits, the same in float32, and their log-probabilities, over the whole vocabulary."""
    return config.transformer.vocab_size * (item + 2 * FLOAT32)
