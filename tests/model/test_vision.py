"""Vision encoder: patches and tokens equal the golden numbers; media do not see one another."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from openlance.errors import LanceError
from openlance.model.vision import CLIP_MEAN, CLIP_STD, VisionEncoder

SMALL = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 24, "patch_size": 4, "window_size": 16,
         "fullatt_block_indexes": [1], "temporal_patch_size": 2, "spatial_merge_size": 2}  # fmt: skip
CASES = ["image_edit", "image_idip", "image_edit_two_sources", "video_edit", "x2t_image", "x2t_video", "x2t_caption_string", "train_main",
         "train_more"]  # fmt: skip


@pytest.fixture(scope="module")
def encoder(golden_dir: Path) -> VisionEncoder:
    encoder = VisionEncoder(json.loads((golden_dir / "vit_config.json").read_text()))
    encoder.tower.load_state_dict(load_file(golden_dir / "vit.safetensors"))
    return encoder.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def small() -> VisionEncoder:
    torch.manual_seed(0)
    encoder = VisionEncoder(SMALL)
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return encoder.eval().requires_grad_(False)


def frames_of(case, encoder):
    names = itertools.takewhile(lambda name: name in case.tensors, (f"vit.frames_u8.{i}" for i in itertools.count()))
    return [encoder.patchify(case.tensor(name)) for name in names]


def random_frames(seed, frames, height, width):
    return torch.randint(0, 256, (frames, height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_golden_tower(encoder, golden):
    case = golden("vit")
    grids = [tuple(grid) for grid in case.tensor("grid_thw").tolist()]
    patches = case.tensor("patches").split([t * h * w for t, h, w in grids])
    tokens = encoder(list(zip(patches, grids, strict=True)))
    assert torch.allclose(torch.cat(tokens), case.tensor("embeds"), atol=2e-4, rtol=0)


@pytest.mark.usefixtures("full_golden")
@pytest.mark.parametrize("name", CASES)
def test_golden_frames_to_tokens(name, encoder, golden):
    case = golden(name)
    media = frames_of(case, encoder)
    assert [list(grid) for _, grid in media] == case.tensor("vit.grid_thw").tolist()
    if "vit.patches" in case.tensors:
        assert torch.allclose(torch.cat([patches for patches, _ in media]), case.tensor("vit.patches"), atol=2e-4, rtol=0)
    assert torch.allclose(torch.cat(encoder(media)), case.tensor("vit.embeds"), atol=2e-4, rtol=0)


@pytest.mark.usefixtures("full_golden")
@pytest.mark.parametrize("name", ["image_edit_two_sources", "video_edit", "x2t_video"])
def test_golden_first_patches(name, encoder, golden):
    case = golden(name)
    patches, _ = frames_of(case, encoder)[0]
    assert torch.allclose(patches[:16], case.tensor("vit.patches_first16"), atol=2e-4, rtol=0)


def test_patch_order_against_loops(small):
    frames = random_frames(1, 3, 16, 24)
    patches, grid = small.patchify(frames)
    assert grid == (2, 4, 6)
    doubled = torch.cat([frames, frames[-1:]])
    expected = []
    for t, block_row, block_column, row, column in itertools.product(range(2), range(2), range(3), range(2), range(2)):
        y, x = (block_row * 2 + row) * 4, (block_column * 2 + column) * 4
        square = doubled[2 * t : 2 * t + 2, y : y + 4, x : x + 4].double() / 255
        square = (square - torch.tensor(CLIP_MEAN).double()) / torch.tensor(CLIP_STD).double()
        expected.append(square.permute(3, 0, 1, 2).flatten())
    assert torch.allclose(patches.double(), torch.stack(expected), atol=1e-6)


def test_an_image_is_a_still_video_of_two_frames(small):
    image = random_frames(2, 1, 16, 16)
    assert torch.equal(small.patchify(image)[0], small.patchify(image.repeat(2, 1, 1, 1))[0])


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5)), min_size=2, max_size=4), st.integers(0, 99))
def test_together_equals_one_by_one(small, sizes, seed):
    media = [small.patchify(random_frames(seed + i, f, 8 * h, 8 * w)) for i, (f, h, w) in enumerate(sizes)]
    together = small(media)
    for (frames, height, width), medium, tokens in zip(sizes, media, together, strict=True):
        t, h, w = small.token_grid(frames, 8 * height, 8 * width)
        assert tokens.shape == (t * h * w, SMALL["out_hidden_size"])
        assert torch.allclose(tokens, small([medium])[0], atol=1e-5)


def test_no_media_no_tokens(small):
    assert small([]) == []


@pytest.mark.usefixtures("full_golden")
def test_bfloat16_is_close(encoder, golden):
    case = golden("x2t_image")
    half = VisionEncoder(encoder.tower.config.to_dict()).to(torch.bfloat16).requires_grad_(False)
    half.tower.load_state_dict(encoder.tower.state_dict())
    tokens = half(frames_of(case, half))[0]
    reference = case.tensor("vit.embeds")
    assert tokens.dtype == torch.bfloat16
    error = (tokens.float() - reference).norm() / reference.norm()
    assert 0 < error < 0.05


def test_sizes_that_do_not_fit_are_named(small):
    with pytest.raises(LanceError, match=r"16x20.*multiples of 8"):
        small.token_grid(1, 16, 20)
    with pytest.raises(LanceError, match="0 frames"):
        small.token_grid(0, 16, 16)
    with pytest.raises(LanceError, match="uint8"):
        small.patchify(torch.zeros(1, 16, 16, 3))
