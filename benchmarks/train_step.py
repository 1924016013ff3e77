"""One training step of the embedded model against its bare matrix products.

    OMP_NUM_THREADS=1 python benchmarks/train_step.py [--tokens 3072] [--compile] [--fused] [--dtype float32] [--task t2i ...]

For each task a bucket of random samples of typical length is run forward and backward. `share` is the time of the layers' products measured
alone, in the same process and at the same shapes, over the time of the step: `linear` of the linear layers only, `share` of them and of
the attention between blocks that see each other. Times are CPU seconds of the process, so that other
work on the machine does not count as ours.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

import openlance
from machine import describe_machine
from openlance.data.batch import TrainingBatch, assemble
from openlance.data.layout import Anchors, padded_length, stream_sizes
from openlance.data.records import Words
from openlance.data.sample import MediumFeatures, Sample, bind_sample
from openlance.model.allocator import keep_freed_memory
from openlance.model.attention import RowGroup
from openlance.model.config import LanceConfig, TransformerConfig
from openlance.model.lance import LanceModel
from openlance.model.precision import fast_dtype
from openlance.sequence.bind import Binder
from openlance.sequence.template import OWN_WORDING
from openlance.sequence.tokenizer import Tokenizer
from openlance.train.compiled import compile_layers
from openlance.train.initial import initialise
from openlance.train.losses import Attention, LossSums, Objective, PathSampling, compute_loss, draw_path, ragged

SIZES = TransformerConfig(
    0, 256, 8, 4, 2, 64, 704, mrope_section=(8, 12, 12), mrope_interleaved=True, rope_theta=100.0, rope_inv_freq_dtype="float32"
)
CHANNELS, WIDTH = 32, 256
PROMPT = "a picture of a small striped red circle to the left of a blue star on a navy background"
QUESTIONS = (("What is the colour of the large star?", "blue"), ("How many circles are there?", "two"), ("Is there a red heart?", "no"))
CASES: dict[str, tuple[tuple[int, int, int] | None, tuple[int, int, int] | None, tuple[int, int, int] | None]] = {
    "t2i": (None, None, (1, 8, 8)),
    "image_edit": ((1, 8, 8), (1, 8, 8), (1, 8, 8)),
    "understand": ((1, 8, 8), None, None),
    "t2v": (None, None, (5, 8, 8)),
}
"""Grids of vision, source latent and target latent at 128 px."""


def sample_of(task: str, binder: Binder) -> Sample:
    sizes = zip(CASES[task], (WIDTH, CHANNELS, CHANNELS), strict=True)
    vision, source, target = (None if grid is None else torch.randn(*grid, width) for grid, width in sizes)
    media = [] if vision is None else [MediumFeatures(vision, source)]
    words = Words(task, QUESTIONS[0][0], QUESTIONS[0][1], more=QUESTIONS[1:]) if target is None else Words(task, PROMPT)
    return bind_sample(binder, words, media, target)


def cpu_time(run: Callable[[], object], repeats: int) -> float:
    """Best CPU seconds of a call."""
    run()
    times = []
    for _ in range(repeats):
        began = time.process_time()
        run()
        times.append(time.process_time() - began)
    return min(times)


Products = Iterator[tuple[Tensor, Tensor]]


def random(*shape: int) -> Tensor:
    return torch.randn(shape)


def linear_products(batch: TrainingBatch) -> Products:
    """What the linear layers of one layer multiply, forward and backward."""
    heads, group = SIZES.num_attention_heads * SIZES.head_dim, SIZES.num_key_value_heads * SIZES.head_dim
    width, inner = SIZES.hidden_size, SIZES.intermediate_size
    for tokens in (batch.ids.numel(), batch.target.numel()):
        for inputs, outputs in ((width, heads + 2 * group), (heads, width), (width, 2 * inner), (inner, width)) if tokens else ():
            x, w, dy = random(tokens, inputs), random(outputs, inputs), random(tokens, outputs)
            yield from ((x, w.T), (dy, w), (dy.T, x))


def attention_products(groups: list[RowGroup]) -> Products:
    """The same of attention, between blocks that see each other."""
    shared, dim = SIZES.num_attention_heads // SIZES.num_key_value_heads, SIZES.head_dim
    for group in groups:
        n, total = group.count * SIZES.num_key_value_heads, group.understanding + group.generation
        sizes = [block.size for block in group.blocks]
        for queries, seen in [(block.size, sum(sizes[j] for j in block.keys)) for block in group.blocks] or [(total, total)]:
            q, k, weights = random(n, shared * queries, dim), random(n, seen, dim), random(n, shared * queries, seen)
            yield from 2 * ((q, k.mT), (weights, k), (weights.mT, q))


def bare(products: Products, repeats: int, dtype: torch.dtype) -> float:
    """CPU seconds of the products of all layers alone."""
    pairs = ((a.to(dtype), b.to(dtype)) for a, b in products)
    return SIZES.num_hidden_layers * sum(cpu_time(lambda a=a, b=b: a @ b, 3 * repeats) for a, b in pairs)  # type: ignore[misc]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=int, default=3072)
    parser.add_argument("--views", type=int, default=2)
    parser.add_argument("--round-to", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--fused", action="store_true", help="the library's attention instead of plain products")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), help="of the weights; default: what this processor multiplies fast")
    parser.add_argument("--task", nargs="*", default=list(CASES), choices=CASES)
    options = parser.parse_args()
    torch.manual_seed(0)
    binder = Binder(Tokenizer.load(Path(openlance.__file__).parent / "nano" / "tokenizer"), OWN_WORDING)
    sizes = dataclasses.replace(SIZES, vocab_size=len(binder.tokenizer))
    model = LanceModel(LanceConfig(sizes, latent_channels=CHANNELS, prediction="data"))
    initialise(model, 0)
    dtype = getattr(torch, options.dtype) if options.dtype else fast_dtype("cpu")
    model.to(dtype)
    if options.compile:
        compile_layers(model)
    attention: Attention = "fused" if options.fused else "plain"
    objective = Objective(attention=attention)
    keep_freed_memory()
    print(
        describe_machine(torch.get_num_threads()),
        f"{str(dtype).removeprefix('torch.')}, {options.tokens} tokens, views {options.views}",
        sep="\n  ",
    )
    print(f"{'task':12} {'rows':>5} {'U':>5} {'G':>5} {'step ms':>8} {'bare ms':>8} {'tokens/s':>9} {'linear':>6} {'share':>6}")
    for task in options.task:
        sample = sample_of(task, binder)
        U, G = stream_sizes(sample.segments, options.views)
        rows = max(1, options.tokens // (padded_length(U, options.round_to) + G))
        batch = assemble([sample_of(task, binder) for _ in range(rows)], Anchors(understanding=True), options.round_to, options.views)
        path = draw_path(batch, PathSampling(), torch.Generator().manual_seed(0))

        def step(batch: TrainingBatch = batch, path: object = path) -> None:
            compute_loss(model, batch, path, objective, batch.counts, LossSums()).backward()  # type: ignore[arg-type, no-untyped-call]
            for parameter in model.parameters():
                parameter.grad = None

        seconds, linear = cpu_time(step, options.repeats), bare(linear_products(batch), options.repeats, dtype)
        products = linear + bare(attention_products(ragged(model, batch, path, attention).groups), options.repeats, dtype)
        row = batch.rows[0]
        print(
            f"{task:12} {rows:5} {row.understanding:5} {row.generation:5} {seconds * 1e3:8.0f} {products * 1e3:8.0f} "
            f"{batch.num_tokens / seconds:9.0f} {linear / seconds:6.2f} {products / seconds:6.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
