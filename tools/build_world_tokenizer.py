"""Build src/openlance/nano/tokenizer: the small tokenizer of the embedded model, trained on the world's language.

python tools/build_world_tokenizer.py --output src/openlance/nano/tokenizer
"""

import argparse
from pathlib import Path

from openlance.world.vocabulary import build_tokenizer

TEMPLATE_TEXTS = (
    "system\n", "user\n", "assistant\n",
    "You are a helpful assistant that sees, draws and edits pictures and videos.",
    "Draw the picture.", "Make the video.", "Edit the picture.", "Edit the video.", "Answer the question.", "Keep the subject.",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--vocab-size", type=int, default=1400)
    arguments = parser.parse_args()
    print(build_tokenizer(arguments.output, TEMPLATE_TEXTS, arguments.vocab_size), "tokens")


if __name__ == "__main__":
    main()
