"""One denoising step with guidance against the sum of its linear layers and attention calls measured alone.

    python benchmarks/denoise_step.py                          # released width, 4 layers, 768x768, bfloat16
    python benchmarks/denoise_step.py --width 128 --layers 3 --heads 4 --kv-heads 2 --mlp 256 --height 64 --image-width 96 --dtype float32

Also prints the share of the step spent outside torch operators. Random weights. Compare the ratio, not the times.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch.nn import functional as F

from machine import describe_machine, print_table
from openlance.engine.denoise import Denoiser
from openlance.engine.request import ImageSampling
from openlance.engine.row import Batcher
from openlance.model.config import LanceConfig, TransformerConfig
from openlance.model.context import Context
from openlance.model.lance import LanceModel
from openlance.sequence.pack import pack
from openlance.sequence.positions import positions
from openlance.sequence.segment import Kind, Role, Segment

PROFILED_SECONDS = 1.0
"""Few steps of a small model give a share that differs by several points from one run to the next."""


def build(args: argparse.Namespace) -> LanceModel:
    head_dim = args.width // args.heads
    half = head_dim // 2
    section = (half - 2 * (half * 3 // 8), half * 3 // 8, half * 3 // 8)
    sizes = TransformerConfig(
        vocab_size=1024,
        hidden_size=args.width,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        num_key_value_heads=args.kv_heads,
        head_dim=head_dim,
        intermediate_size=args.mlp,
        mrope_section=section,
    )
    torch.manual_seed(0)
    model = LanceModel(LanceConfig(transformer=sizes)).to(getattr(torch, args.dtype)).eval()
    model.rope.reset()
    return model


def make_step(model: LanceModel, args: argparse.Namespace) -> tuple[Callable[[], None], list[int], int]:
    """One step of two branches; the lengths of their contexts; latent tokens a branch."""
    grid = (1, args.height // 16, args.image_width // 16)
    cells = grid[1] * grid[2]
    segment = Segment(Kind.LATENT, Role.TARGET, (1, 2, 3), grid=grid)
    text = Segment(Kind.TEXT, Role.TEMPLATE, (1,) * args.prompt_tokens)
    contexts, targets, lengths = [], [], [args.prompt_tokens, args.prompt_tokens // 2]
    for length in lengths:
        context = Context(model.config.transformer, model.device, model.dtype, length)
        context._buffer.normal_()
        context.length = length
        whole = pack([[text, segment]], [positions([text, segment])])
        contexts.append(context)
        targets.append(whole.part(args.prompt_tokens, args.prompt_tokens + len(segment)))
    sampling = ImageSampling().resolve(model.config)
    denoiser = Denoiser(model, targets, contexts, torch.randn(cells, model.config.latent_channels), sampling)
    batcher = Batcher(model)
    for row in denoiser.rows:
        row.latents = denoiser.start
        row.times = torch.tensor([0.0, 0.9])

    def step() -> None:
        denoiser.combine(batcher.run(denoiser.rows))

    return step, lengths, cells


def bare_products(model: LanceModel, lengths: list[int], cells: int) -> Callable[[], None]:
    """The linear layers and attention calls of one step, nothing else."""
    sizes, dtype = model.config.transformer, model.dtype
    frame = 2
    inputs = {
        n: [
            torch.randn(n * 2, width, dtype=dtype)
            for width in (sizes.hidden_size, sizes.num_attention_heads * sizes.head_dim, sizes.intermediate_size)
        ]
        for n in (frame, cells)
    }
    tokens = cells + frame
    query = torch.randn(1, tokens, sizes.num_attention_heads, sizes.head_dim, dtype=dtype).transpose(1, 2)
    keys = [torch.randn(1, sizes.num_key_value_heads, tokens + length, sizes.head_dim, dtype=dtype) for length in lengths]
    latents = torch.randn(2 * cells, model.config.latent_channels, dtype=dtype)

    def run() -> None:
        model.latent.input(latents)
        for layer in model.transformer.layers:
            for expert, count in ((layer.understanding, frame), (layer.generation, cells)):
                x, mixed, wide = inputs[count]
                expert.qkv(x)
                expert.output(mixed)
                expert.gate_up(x)
                expert.down(wide)
            for key in keys:
                F.scaled_dot_product_attention(query, key, key, enable_gqa=True)
        model.latent.output(inputs[cells][0])

    return run


def seconds(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def outside_operators(step: Callable[[], None], repeats: int) -> float:
    """Share of the time of profiled steps that is in no torch operator. What recording an operator costs counts as outside of it."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as record:
        start = time.perf_counter()
        for _ in range(repeats):
            step()
        wall = time.perf_counter() - start
    inside = sum(event.self_cpu_time_total for event in record.key_averages()) / 1e6
    return 1 - inside / wall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (
        ("width", 2048),
        ("layers", 4),
        ("heads", 16),
        ("kv-heads", 2),
        ("mlp", 11008),
        ("height", 768),
        ("image-width", 768),
        ("prompt-tokens", 96),
        ("repeats", 5),
        ("threads", 1),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--dtype", default="bfloat16")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with torch.inference_mode():
        model = build(args)
        step, lengths, cells = make_step(model, args)
        bare = bare_products(model, lengths, cells)
        step(), bare()
        pairs = [(seconds(step), seconds(bare)) for _ in range(args.repeats)]
        share = outside_operators(step, max(2, args.repeats, round(PROFILED_SECONDS / min(a for a, _ in pairs))))
    rows = [
        ("one step, two branches", f"{statistics.median(a for a, _ in pairs) * 1e3:.1f} ms"),
        ("its linear layers and attention alone", f"{statistics.median(b for _, b in pairs) * 1e3:.1f} ms"),
        ("ratio, median of pairs", f"{statistics.median(a / b for a, b in pairs):.3f}"),
        ("outside torch operators", f"{share:.1%}"),
    ]
    print_table(
        f"denoising step: width {args.width}, {args.layers} layers, {args.height}x{args.image_width}, {args.dtype}",
        rows,
        describe_machine(args.threads),
    )


if __name__ == "__main__":
    main()
