"""Train: an encoder's pre-stage, a cache of features, any supervised stage, stage four, or an average of two models, as its recipe says.

Every key of a recipe can be overridden as key.sub=value. A run can be killed at any time: the same command goes on from its last
checkpoint. A folder with an order.txt runs all its recipes, one after the other.

examples:
  openlance train recipes/nano/t2i.yaml --plan
  openlance train recipes/nano/t2i.yaml steps=500 optim.learning_rate=1e-3
  openlance train recipes/nano
  openlance train recipes/finetune/average.yaml average='[nano, runs/mine/model]' share=0.4 output=runs/average
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", type=Path, metavar="RECIPE", help="YAML file, or a folder with an order.txt")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="values that replace those of the recipe")
    parser.add_argument("--plan", action="store_true", help="say what the run will do, and stop")


def run(args: argparse.Namespace) -> int:
    import torch

    from openlance.apps.cli import OK
    from openlance.apps.recipes import read_run, recipes_in_order
    from openlance.errors import LanceError
    from openlance.model.allocator import keep_freed_memory

    keep_freed_memory()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    whole = args.recipe.is_dir()
    if whole and args.overrides:
        raise LanceError(f"overrides {args.overrides} go with one recipe, not with a folder of them")
    runs = [read_run(path, args.overrides) for path in (recipes_in_order(args.recipe) if whole else [args.recipe])]
    for each in runs:
        print(f"{each.path} ({each.kind})")
        for line in each.lines:
            print(f"  {line}")
        if args.plan:
            continue
        began = time.monotonic()
        each.start()
        print(f"{each.path} took {(time.monotonic() - began) / 60:.1f} minutes", flush=True)
    return OK
