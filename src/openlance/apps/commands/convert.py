"""Rewrite a checkpoint: into our own layout (one folder, sharded safetensors) or the published one, in another dtype.

examples:
  openlance convert bytedance-research/Lance ./lance-image --dtype bfloat16
  openlance convert ./lance-image ./published --to published --dtype float32
  openlance convert ./run/checkpoint ./release --max-shard-size 2000000000
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from openlance.apps.console import stderr_console, tell
from openlance.errors import RequestError

if TYPE_CHECKING:
    import torch

    from openlance.weights.hub import CheckpointFiles


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="FROM", help="nano, a folder in any layout, or bytedance-research/Lance")
    parser.add_argument("target", type=Path, metavar="TO", help="folder to write")
    parser.add_argument("--to", choices=("own", "published"), default="own", help="layout (default: own)")
    parser.add_argument("--dtype", default="auto", help="auto (as it is), float32, bfloat16 or float16")
    parser.add_argument("--variant", choices=("image", "video"), help="which of the published weights")
    parser.add_argument("--templates", metavar="FILE", help="templates.json to put in, instead of the checkpoint's")
    parser.add_argument("--max-shard-size", type=int, default=5_000_000_000, metavar="BYTES", help="weights a file (own layout)")
    parser.add_argument("--overwrite", action="store_true", help="replace a checkpoint in TO")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")


def run(args: argparse.Namespace) -> int:
    import torch

    from openlance.sequence.tokenizer import Tokenizer
    from openlance.weights.export import export_pretrained
    from openlance.weights.hub import resolve
    from openlance.weights.load import load_checkpoint, read_binder
    from openlance.weights.save import save_pretrained

    files = resolve(args.source, variant=args.variant)
    if args.target.resolve() == files.folder.resolve():
        raise RequestError(f"{args.target} is the source itself: choose another folder")
    wording = Path(args.templates) if args.templates else files.templates
    binder = read_binder(files, Tokenizer.load(files.tokenizer), wording)
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if args.dtype != "auto" and args.dtype not in known:
        raise RequestError(f"--dtype {args.dtype} is not one of auto, {', '.join(known)}")
    dtype = known[args.dtype] if args.dtype != "auto" else _widest(files)
    console = stderr_console(args.quiet)
    with console.status(f"reading {files.folder} ..."):
        model = load_checkpoint(files, dtype=dtype)
    with console.status(f"writing {args.target} ..."):
        if args.to == "own":
            save_pretrained(model, binder, args.target, max_shard_size=args.max_shard_size, overwrite=args.overwrite)
        else:
            export_pretrained(model, binder, args.target, variant=files.variant, dtype=dtype, overwrite=args.overwrite)
    if args.json:
        tell({"folder": str(args.target), "layout": args.to, "dtype": str(dtype).removeprefix("torch.")})
    else:
        print(args.target)
    return 0


def _widest(files: CheckpointFiles) -> torch.dtype:
    """The dtype of the checkpoint's weights; the widest where there are several."""
    from openlance.weights.tensorfile import open_tensors

    return max((entry.dtype for entry in open_tensors(files.weights).entries.values()), key=lambda dtype: dtype.itemsize)
