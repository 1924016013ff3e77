"""Draw eight pictures of something the embedded model has never seen, under a name of its own, as records to fine-tune on.

    python tools/subject_pictures.py frog zog runs/finetune/zog
    openlance train recipes/finetune/subject.yaml

Writes mine.jsonl and eight PNG of 128 x 128 into the folder. The things are the pictograms of the second ring of the world.
"""

import argparse
import json
import random
from pathlib import Path

from PIL import Image

from openlance.world.palette import BACKGROUNDS, NATURAL, THINGS
from openlance.world.render import render
from openlance.world.scene import Object, Scene

PHRASES = ("a {name} on a {background} background", "there is a {name} on {background}", "a picture of a {name}, {background} background")
DIAMETER = 0.4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("thing", choices=THINGS, metavar="THING", help=f"one of {', '.join(THINGS)}")
    parser.add_argument("name", help="what to call it")
    parser.add_argument("output", type=Path)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    rng = random.Random(args.name)
    records = []
    for index in range(8):
        background = list(BACKGROUNDS)[index % len(BACKGROUNDS)]
        x, y = rng.uniform(0.25, 0.75), rng.uniform(0.25, 0.75)
        scene = Scene(128, 128, background, (Object(args.thing, NATURAL, "solid", "large", x, y, DIAMETER),))
        Image.fromarray(render(scene, 128, 128)).save(args.output / f"{index}.png")
        text = PHRASES[index % len(PHRASES)].format(name=args.name, background=background)
        records.append({"task": "t2i", "text": text, "target": {"image": f"{index}.png"}})
    (args.output / "mine.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


if __name__ == "__main__":
    main()
