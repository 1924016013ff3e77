"""How much a model reads out of a prompt: the error of its data prediction on held-out pictures near noise, by how they are worded.

    python tools/prompt_error.py                       # the embedded model, 96 pictures on a lattice of 32 px
    python tools/prompt_error.py FOLDER --lattice 16

At time 1 the picture is pure noise and words are all there is: a model that does not know which word belongs to which object cannot do
better than a blur. Figures are squared errors over the squares of the latents; "nothing" is without a prompt.
"""

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import torch

from openlance.data.batch import assemble
from openlance.data.features import encode_records
from openlance.data.layout import Anchors
from openlance.data.records import Words
from openlance.data.sample import ConditionDropout, Sample, bind_sample
from openlance.data.world import Rephrase, WorldData, record_of
from openlance.pipeline import Lance
from openlance.train.frozen import FrozenEncoders
from openlance.train.losses import Path as NoisePath
from openlance.train.losses import ragged

FIRST = 49_000_000
"""Index of the first picture: beyond those of every recipe."""
CATEGORIES = {"attribute": 1.0, "position": 1.0, "described": 1.0, "dense": 1.0}
ROWS = 32
TIMES = (1.0, 0.9, 0.8, 0.6)


def silent(entry: Mapping[str, Any], rng: Random) -> Words:
    return Words(entry["task"], "", None, None)


WORDINGS = {
    "all said, plainly": Rephrase(category="described", plain=True),
    "all said": Rephrase(category="described"),
    "as the category says": Rephrase(),
    "nothing": silent,
}


def samples_of(lance: Lance, data: WorldData, count: int, encoders: FrozenEncoders) -> dict[str, list[Sample]]:
    """The same pictures under every wording."""
    worded: dict[str, list[Sample]] = {name: [] for name in WORDINGS}
    whole = ConditionDropout().draw(Random(0))
    for index in range(FIRST, FIRST + count):
        example = data.example(index)
        (turn,) = example.turns
        assert turn.target is not None
        ((media, target),) = encode_records([record_of(turn)], encoders)
        entry = {
            "task": turn.task,
            "text": turn.text,
            "answer": None,
            "system": None,
            "category": example.category,
            "scene": turn.target.scene.to_dict(),
        }
        for name, wording in WORDINGS.items():
            worded[name].append(bind_sample(lance.binder, wording(entry, Random(index)), media, target, whole))
    return worded


@torch.no_grad()
def error(lance: Lance, samples: list[Sample], time: float) -> float:
    """Squared error of the data prediction over the square of the data."""
    model, anchors = lance.model, lance.model.config.anchors
    generator = torch.Generator().manual_seed(3)
    wrong = whole = 0.0
    for start in range(0, len(samples), ROWS):
        batch = assemble(samples[start : start + ROWS], Anchors(anchors.vision, anchors.reference, anchors.understanding), 32)
        times = torch.full((batch.num_targets + 1,), time)
        times[0] = 0.0
        path = NoisePath(times, torch.randn(batch.latents.shape, generator=generator))
        hidden = model(ragged(model, batch, path, "plain")).generation
        cells = torch.nonzero(batch.target)[:, 0]
        noisy = (1 - time) * batch.latents[cells] + time * path.noise[cells]
        velocity = model.velocity(hidden[cells], noisy, torch.full((len(cells), 1), time))
        wrong += float((noisy - time * velocity - batch.latents[cells]).square().sum())
        whole += float(batch.latents[cells].square().sum())
    return wrong / whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="nano")
    parser.add_argument("--n", type=int, default=96, help="pictures (default 96)")
    parser.add_argument("--lattice", type=int, default=32, help="px; 0 puts objects anywhere (default 32)")
    args = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    lance = Lance.from_pretrained(Path(args.model) if Path(args.model).exists() else args.model, device="cpu", dtype="float32")
    data = WorldData("t2i", CATEGORIES, lattice=args.lattice)
    worded = samples_of(lance, data, args.n, FrozenEncoders(lance.model.vision, lance.model.autoencoder))
    print(f"{'':22}" + "".join(f"  t = {time:<4}" for time in TIMES))
    for name, samples in worded.items():
        print(f"{name:22}" + "".join(f"  {error(lance, samples, time):<8.3f}" for time in TIMES))


if __name__ == "__main__":
    main()
