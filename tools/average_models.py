"""A model between two that went on from the same one.

python tools/average_models.py BEFORE AFTER --share 0.6 -o FOLDER        # folders of models, or nano
"""

import argparse
from pathlib import Path

import torch

from openlance.pipeline import Lance
from openlance.weights.average import average_tensors
from openlance.weights.save import save_pretrained


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs=2, metavar="MODEL")
    parser.add_argument("--share", type=float, default=0.5, help="of the second model, 0 to 1 (default 0.5)")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="a new folder, written in bfloat16")
    args = parser.parse_args()
    one, other = (Lance.from_pretrained(Path(name) if Path(name).exists() else name, dtype="float32") for name in args.models)
    tensors = average_tensors(one.model, other.model, args.share)
    save_pretrained(other.model, other.binder, args.output, dtype=torch.bfloat16, tensors=tensors)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
