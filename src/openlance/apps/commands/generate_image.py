"""Draw images of prompts.

Several prompts, and several images of a prompt, are computed together in one batch. The path of each image is printed
on stdout. A prompt `-` is read from standard input, `@FILE` from a file.

examples:
  openlance generate-image "a red circle on a white background"
  openlance generate-image "a corgi astronaut" -n 4 --seed 7 --output corgis/
  openlance generate-image "the same dog at the beach" --reference dog.png
  openlance generate-image "a lighthouse" -m bytedance-research/Lance --height 768 --width 768 --num-inference-steps 30
"""

from __future__ import annotations

import argparse

from openlance.apps.console import add_model_arguments, add_output_arguments
from openlance.apps.making import add_file_arguments, make, read_prompt
from openlance.apps.parameters import IMAGE, SEED, SIZES, SYSTEM, add_parameters


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", nargs="+", help="what to draw")
    parser.add_argument("-r", "--reference", action="append", default=[], metavar="FILE", help="a subject to keep (may be repeated)")
    add_file_arguments(parser, "images")
    add_parameters(parser, "image", (*SIZES, *SEED))
    add_parameters(parser, "sampling (default: the model's own)", (*IMAGE, *SYSTEM))
    add_model_arguments(parser)
    add_output_arguments(parser)


def run(args: argparse.Namespace) -> int:
    prompts = [read_prompt(prompt) for prompt in args.prompt]
    return make(args, prompts, video=False, media=args.reference, subject=bool(args.reference))
