"""Film clips of prompts, or let a picture move.

examples:
  openlance generate-video "waves at dusk" --num-frames 49
  openlance generate-video "the boat sails away" --image boat.png --format gif
  openlance generate-video "the dog runs" --reference dog.png --reference park.png
  openlance generate-video "a rocket starts" -m bytedance-research/Lance --variant video --height 480 --width 848
"""

from __future__ import annotations

import argparse

from openlance.apps.console import add_model_arguments, add_output_arguments
from openlance.apps.making import add_file_arguments, make, read_prompt
from openlance.apps.parameters import FRAMES, IMAGE, SEED, SIZES, SYSTEM, add_parameters
from openlance.errors import RequestError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", nargs="+", help="what to film")
    parser.add_argument("-i", "--image", metavar="FILE", help="the first frame")
    parser.add_argument("-r", "--reference", action="append", default=[], metavar="FILE", help="a subject to keep (may be repeated)")
    add_file_arguments(parser, "clips")
    add_parameters(parser, "clip", (*SIZES, *FRAMES, *SEED))
    add_parameters(parser, "sampling (default: the model's own)", (*IMAGE, *SYSTEM))
    add_model_arguments(parser)
    add_output_arguments(parser)


def run(args: argparse.Namespace) -> int:
    if args.image and args.reference:
        raise RequestError("--image is where the clip starts and --reference what it shows: give one of the two")
    prompts = [read_prompt(prompt) for prompt in args.prompt]
    media = [args.image] if args.image else args.reference
    return make(args, prompts, video=True, media=media, first_frame=bool(args.image), subject=bool(args.reference))
