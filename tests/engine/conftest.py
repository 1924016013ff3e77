"""A real, tiny model with every part: the golden weights in float32 with our own wording."""

from pathlib import Path

import numpy as np
import pytest

from openlance.media import Clip
from openlance.pipeline import Lance
from openlance.sequence.template import OWN_WORDING


@pytest.fixture(scope="session")
def lance(golden_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Lance:
    wording = tmp_path_factory.mktemp("wording") / "templates.json"
    OWN_WORDING.save(wording)
    return Lance.from_pretrained(golden_dir, dtype="float32", device="cpu", templates=wording)


@pytest.fixture(scope="session")
def picture() -> Clip:
    return Clip.from_image(np.random.default_rng(0).integers(0, 255, (80, 112, 3), dtype=np.uint8))


@pytest.fixture(scope="session")
def film() -> Clip:
    return Clip(np.random.default_rng(1).integers(0, 255, (9, 64, 80, 3), dtype=np.uint8), fps=24.0)


SMALL = {"num_inference_steps": 3, "seed": 7, "resolution": (64, 112)}
"""Sampling that takes a fraction of a second."""
