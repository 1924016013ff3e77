"""Reinforcement learning of what a model draws, from rewards such as words read back by OCR.

RECIPE is a YAML file; every key can be overridden as key.sub=value. The run can be interrupted at any time: the same command goes on
from its last checkpoint in the recipe's output folder. There it leaves metrics.jsonl (every iteration), evaluations.jsonl and sheets/
(held-out prompts), and model/ (the averaged weights); with model.lora also adapter/, which is merged in model/.

examples:
  openlance rl recipes/nano/rl.yaml --plan
  openlance rl recipes/nano/rl.yaml
  openlance rl recipes/finetune/rl-lora.yaml model.checkpoint=weights/Lance prompts.file=prompts.jsonl
  openlance rl recipes/nano/rl.yaml objective=nft optim.learning_rate=1e-4 output=runs/nano/rl-nft
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", type=Path, metavar="RECIPE", help="YAML file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="values that replace those of the recipe")
    parser.add_argument("--plan", action="store_true", help="say what the run will do, and stop")


def run(args: argparse.Namespace) -> int:
    import torch

    from openlance.rl.loop import practise, start
    from openlance.rl.plan import make_plan
    from openlance.rl.recipe import read_rl_recipe

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    recipe = read_rl_recipe(args.recipe, args.overrides)
    if args.plan:
        fresh = start(recipe)
        print("\n".join(make_plan(fresh).lines(fresh)))
        return 0
    practise(recipe)
    return 0
