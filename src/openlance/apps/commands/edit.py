"""Change an image or a video as told: an image gives an image, a video a video.

Files come first, the instruction last. Of several sources the last one sets the size.

examples:
  openlance edit photo.jpg "make it snowy"
  openlance edit clip.mp4 "turn the ball blue" --output blue.mp4
  openlance edit hat.png portrait.png "put the hat on the head" -n 4
"""

from __future__ import annotations

import argparse

from openlance.apps.console import add_model_arguments, add_output_arguments
from openlance.apps.making import add_file_arguments, make, read_prompt
from openlance.apps.parameters import FRAMES, IMAGE, SEED, SIZES, SYSTEM, add_parameters
from openlance.errors import RequestError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", nargs="+", metavar="FILE", help="images or videos to change")
    parser.add_argument("instruction", help="what to change")
    add_file_arguments(parser, "results")
    add_parameters(parser, "size (default: the source's)", (*SIZES, *FRAMES, *SEED))
    add_parameters(parser, "sampling (default: the model's own)", (*IMAGE, *SYSTEM))
    add_model_arguments(parser)
    add_output_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from openlance.media import read_media

    kinds = {read_media(path).is_image for path in args.source}
    if len(kinds) > 1:
        raise RequestError("an edit takes images or videos, not both: choose one kind of source")
    return make(args, [read_prompt(args.instruction)], video=not kinds.pop(), media=args.source)
