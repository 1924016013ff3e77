"""Say what a checkpoint is: layout, sizes, parameters of each part, tasks, and the memory they need.

Only configuration and headers are read, so that it takes a moment for weights of any size. Memory is an estimate at the
model's default sizes: weights, keys and values of both guidance branches, the widest activations, pixels; `in all` counts the
libraries of a process on a CPU too, and is within a quarter of what benchmarks/memory.py measures. With --train it is that
of training: by what learns (all, the generation expert, adapters on it) and by how many processes share the model.

examples:
  openlance info
  openlance info bytedance-research/Lance --variant video
  openlance info ./checkpoint --dtype float32 --json
  openlance info bytedance-research/Lance --train --tokens 8192
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from openlance.apps.console import tell
from openlance.errors import RequestError

if TYPE_CHECKING:
    from openlance.apps.anatomy import Need, Part
    from openlance.model.config import LanceConfig
    from openlance.weights.hub import CheckpointFiles

GIB = 2**30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", default="nano", metavar="NAME", help="nano (default), a folder, or bytedance-research/Lance")
    parser.add_argument("--variant", choices=("image", "video"), help="which of the published weights")
    parser.add_argument("--dtype", default="auto", help="dtype in memory: auto (as loaded here), bfloat16, float16, float32")
    parser.add_argument("--train", action="store_true", help="memory of training instead, from the configuration alone")
    parser.add_argument("--tokens", type=int, default=8192, metavar="N", help="tokens of one pass of training (default 8192)")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")


def run(args: argparse.Namespace) -> int:
    import torch

    from openlance.apps.anatomy import needs_of, parts_of
    from openlance.model.precision import fast_dtype
    from openlance.weights.hub import resolve
    from openlance.weights.load import read_config

    known = {"auto": None, "bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
    if args.dtype not in known:
        raise RequestError(f"--dtype {args.dtype} is not one of {', '.join(known)}")
    if args.train:
        return _training(args)
    files = resolve(args.model, variant=args.variant)
    config = read_config(files)
    parts = parts_of(files, config)
    parameters = sum(part.parameters for part in parts)
    dtype = known[args.dtype] or fast_dtype("cuda" if torch.cuda.is_available() else "cpu", parameters)
    weights = parameters * dtype.itemsize
    needs = needs_of(config, dtype)
    if args.json:
        tell(_values(files, config, parts, needs, weights, str(dtype).removeprefix("torch.")))
    else:
        _print(files, config, parts, needs, weights, str(dtype).removeprefix("torch."))
    return 0


def _training(args: argparse.Namespace) -> int:
    from pathlib import Path

    from openlance.apps.training_memory import rows_of, show
    from openlance.model.config import LanceConfig
    from openlance.weights.hub import HUB_NAME, resolve
    from openlance.weights.load import read_config

    if args.tokens < 1:
        raise RequestError(f"--tokens {args.tokens} must be at least 1")
    # Sizes of the published weights are known without them.
    known = args.model == HUB_NAME and not Path(args.model).exists()
    config = LanceConfig() if known else read_config(resolve(args.model, variant=args.variant))
    if args.json:
        tell({"name": config.name, "tokens": args.tokens, "rows": [row.values() for row in rows_of(config, args.tokens)]})
    else:
        show(config, args.tokens)
    return 0


def _values(files: CheckpointFiles, config: LanceConfig, parts: list[Part], needs: list[Need], weights: int, dtype: str) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "name": config.name,
        "layout": files.layout,
        "folder": str(files.folder),
        "parameters": sum(part.parameters for part in parts),
        "bytes_on_disk": sum(part.bytes for part in parts),
        "parts": [asdict(part) for part in parts],
        "dtype": dtype,
        "weights_bytes": weights,
        "tasks": [
            asdict(need) | {"total": need.total, "with_weights": need.total + weights, "in_all": need.in_all(weights)} for need in needs
        ],
        "templates": files.templates is not None,
        "config": config.to_dict(),
    }


def _print(files: CheckpointFiles, config: LanceConfig, parts: list[Part], needs: list[Need], weights: int, dtype: str) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    sizes = config.transformer
    console.print(f"[bold]{config.name}[/]  ({files.layout} layout, {files.folder})", highlight=False)
    console.print(
        f"{sizes.num_hidden_layers} layers of two experts, width {sizes.hidden_size}, {sizes.num_attention_heads} heads "
        f"({sizes.num_key_value_heads} of keys), vocabulary {sizes.vocab_size}, {config.latent_channels} latent channels, "
        f"predicts {config.prediction}",
        highlight=False,
    )
    table = Table(box=None, pad_edge=False)
    for title, justify in (("part", "left"), ("parameters", "right"), ("on disk", "right"), ("dtype", "left")):
        table.add_column(title, justify="right" if justify == "right" else "left")
    for part in parts:
        table.add_row(part.name, f"{part.parameters:,}", human(part.bytes), ", ".join(part.dtypes))
    table.add_row("[bold]all[/]", f"[bold]{sum(part.parameters for part in parts):,}[/]", human(sum(part.bytes for part in parts)), "")
    console.print(table)
    console.print()
    table = Table(box=None, pad_edge=False, title=f"memory by task, weights in {dtype}: {human(weights)}", title_justify="left")
    for title in ("task", "at", "tokens", "cache", "activations", "pixels", "in all"):
        table.add_column(title, justify="left" if title in ("task", "at") else "right", no_wrap=True)
    for need in needs:
        cells = [need.cache, need.activations, need.pixels, need.in_all(weights)]
        table.add_row(need.task, need.size, f"{need.tokens:,}", *(human(cell) for cell in cells))
    console.print(table)
    if files.templates is None:
        console.print("no templates.json: pass --system or --templates, or make one with  openlance templates --from FILE", highlight=False)


def human(size: int) -> str:
    """Bytes for people: 1.5 GiB, 20 MiB."""
    if size >= GIB:
        return f"{size / GIB:.2f} GiB"
    return f"{size / 2**20:.1f} MiB"
