"""Video autoencoder: golden latents and pixels, streaming equal to one shot, memory that does not grow with length."""

import gc
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from openlance.errors import CheckpointError, LanceError
from openlance.model.config import RELEASED_AUTOENCODER
from openlance.model.pixels import to_pixels, to_uint8, usable_frames
from openlance.model.vae import VideoAutoencoder, build_autoencoder
from openlance.weights.names import autoencoder_slots

TINY = {"dim": 4, "dec_dim": 8, "z_dim": 6, "dim_mult": [1, 1, 2, 2], "num_res_blocks": 1, "temperal_downsample": [False, True, True],
        "latents_mean": [0.1 * i for i in range(6)], "latents_std": [1.0 + 0.1 * i for i in range(6)]}  # fmt: skip


@pytest.fixture(scope="module")
def released(golden_dir: Path) -> VideoAutoencoder:
    """The golden-size autoencoder with the released statistics and the golden weights, renamed."""
    autoencoder = build_autoencoder({**RELEASED_AUTOENCODER, **json.loads((golden_dir / "vae_config.json").read_text())})
    published = load_file(golden_dir / "vae.safetensors")
    autoencoder.load_state_dict({slot.target: published[slot.name] for slot in autoencoder_slots(autoencoder.state_dict())})
    return autoencoder.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def tiny() -> VideoAutoencoder:
    torch.manual_seed(0)
    return build_autoencoder(TINY).eval().requires_grad_(False)


def random_frames(seed, frames, height, width):
    return torch.randint(0, 256, (frames, height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def one_shot_decode(autoencoder, latents):
    """The library's own loop: the slow twin of decode_stream."""
    raw = latents * autoencoder.latents_std + autoencoder.latents_mean
    return autoencoder.wan.decode(raw.permute(0, 4, 1, 2, 3)).sample


def one_shot_encode(autoencoder, pixels):
    mean = autoencoder.wan.encode(pixels).latent_dist.mean.permute(0, 2, 3, 4, 1)
    return (mean - autoencoder.latents_mean) / autoencoder.latents_std


@pytest.mark.parametrize("index", range(4))
def test_golden(released, golden, index):
    case = golden("vae")
    latents = released.encode(case.tensor(f"in_u8.{index}"))[0]
    assert torch.allclose(latents, case.tensor(f"mu_normalised_thwc.{index}"), atol=2e-4, rtol=0)
    pixels = released.decode(case.tensor(f"dec_latent_thwc.{index}")[None])[0]
    assert torch.allclose(pixels, case.tensor(f"dec_pixels_cthw.{index}"), atol=2e-4, rtol=0)


@pytest.mark.usefixtures("full_golden")
@pytest.mark.parametrize("name", ["image_edit", "image_edit_two_sources", "image_idip", "video_edit", "i2v"])
def test_golden_sources(released, golden, name):
    case = golden(name)
    pairs = [(f"vae.cond_frames_u8.{i}", f"vae.cond_latent.{i}") for i in range(2)] + [("vae.first_frame_u8", "vae.first_latent")]
    present = [(frames, latents) for frames, latents in pairs if frames in case.tensors]
    assert present
    for frames, latents in present:
        assert torch.allclose(released.encode(case.tensor(frames))[0], case.tensor(latents), atol=2e-4, rtol=0)


@pytest.mark.parametrize("name", ["t2i", "t2v", "i2v", "image_edit"])
def test_golden_decoded(released, golden, name):
    case = golden(name)
    latents = [tensor for key, tensor in sorted(case.tensors.items()) if key.startswith("final_latent.")][-1]
    assert torch.allclose(released.decode(latents[None])[0], case.tensor("decoded"), atol=2e-4, rtol=0)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 2), st.integers(1, 4), st.integers(1, 2), st.integers(1, 2), st.integers(0, 99))
def test_streamed_decode_equals_one_shot(tiny, n, t, h, w, seed):
    latents = torch.randn(n, t, h, w, 6, generator=torch.Generator().manual_seed(seed))
    pieces = list(tiny.decode_stream(latents))
    assert [piece.shape[2] for piece in pieces] == [1] + [4] * (t - 1)
    streamed = torch.cat(pieces, dim=2)
    assert torch.allclose(streamed, one_shot_decode(tiny, latents), atol=5e-6, rtol=0)
    assert torch.equal(streamed, tiny.decode(latents))


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 3), st.integers(1, 2), st.integers(1, 2), st.integers(0, 99))
def test_streamed_encode_equals_one_shot(tiny, t, h, w, seed):
    frames = random_frames(seed, 4 * t - 3, 16 * h, 16 * w)
    latents = torch.cat(list(tiny.encode_stream(frames)), dim=1)
    assert latents.shape == (1, t, h, w, 6)
    assert latents.dtype == torch.float32
    assert torch.allclose(latents, one_shot_encode(tiny, to_pixels(frames)), atol=1e-5, rtol=0)
    assert torch.allclose(latents, tiny.encode(to_pixels(frames)), atol=1e-6, rtol=0)


def test_a_batch_equals_one_by_one(tiny):
    pixels = torch.cat([to_pixels(random_frames(seed, 5, 16, 32)) for seed in range(3)])
    together = tiny.encode(pixels)
    assert torch.allclose(together, torch.cat([tiny.encode(pixels[i : i + 1]) for i in range(3)]), atol=1e-5)


def test_the_future_is_not_seen(tiny):
    frames = random_frames(0, 9, 16, 16)
    assert torch.equal(tiny.encode(frames)[:, :2], tiny.encode(frames[:5]))


def test_trailing_frames_are_dropped(tiny):
    frames = random_frames(3, 8, 16, 16)
    assert torch.equal(tiny.encode(frames), tiny.encode(frames[:5]))
    assert [usable_frames(n) for n in (1, 2, 4, 5, 8, 9, 69)] == [1, 1, 1, 5, 5, 9, 69]


def test_streams_may_be_interleaved_and_left(tiny):
    first, second = torch.randn(2, 1, 3, 1, 1, 6, generator=torch.Generator().manual_seed(1)).unbind(0)
    abandoned = tiny.decode_stream(second)
    next(abandoned)
    pieces, others = [], tiny.decode_stream(second)
    for piece in tiny.decode_stream(first):
        pieces.append(piece)
        next(others)
    assert torch.equal(torch.cat(pieces, dim=2), tiny.decode(first))


def live_bytes():
    return sum(thing.untyped_storage().nbytes() for thing in gc.get_objects() if type(thing) is torch.Tensor)


def test_memory_does_not_grow_with_length(tiny):
    gc.collect()
    held = [live_bytes() for _ in tiny.decode_stream(torch.randn(1, 8, 2, 2, 6))]
    assert held[7] == held[3] > 0
    held = [live_bytes() for _ in tiny.encode_stream(random_frames(0, 29, 32, 32))]
    assert held[7] == held[3] > 0


def test_uint8_round_trip_of_every_level():
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).repeat(1, 1, 1, 3)
    back = to_uint8(to_pixels(levels)[0])
    assert back.dtype == np.uint8
    assert np.array_equal(back, levels.numpy())
    assert to_uint8(torch.tensor([-1.0, 0.0039, 1.0]).reshape(3, 1, 1, 1)).ravel().tolist() == [0, 128, 255]


def test_bfloat16_is_close(released, golden):
    case = golden("vae")
    half = VideoAutoencoder({**RELEASED_AUTOENCODER, "dim": 8, "dec_dim": 8}).to(torch.bfloat16).requires_grad_(False)
    half.load_state_dict(released.state_dict())
    half.latents_mean, half.latents_std = released.latents_mean, released.latents_std
    latents = half.encode(case.tensor("in_u8.1"))[0]
    assert latents.dtype == torch.float32
    assert (latents - case.tensor("mu_normalised_thwc.1")).abs().mean() < 0.05
    pixels = half.decode(case.tensor("dec_latent_thwc.1")[None])[0]
    assert pixels.dtype == torch.float32
    assert (pixels - case.tensor("dec_pixels_cthw.1")).abs().mean() < 0.05


def test_released_size():
    with torch.device("meta"):
        autoencoder = VideoAutoencoder(RELEASED_AUTOENCODER)
    assert (autoencoder.spatial_stride, autoencoder.temporal_stride, autoencoder.latent_channels) == (16, 4, 48)
    assert round(sum(p.numel() for p in autoencoder.parameters()) / 1e6, 1) == 704.7


def test_sizes_that_do_not_fit_are_named(tiny):
    with pytest.raises(LanceError, match=r"20x16 pixels.*multiples of 16"):
        tiny.encode(random_frames(0, 1, 20, 16))
    with pytest.raises(LanceError, match=r"uint8 \(F, H, W, 3\)"):
        tiny.encode(torch.zeros(1, 3, 16, 16))
    with pytest.raises(LanceError, match="at least one"):
        tiny.encode(random_frames(0, 0, 16, 16))
    with pytest.raises(LanceError, match=r"\(N, t, h, w, 6\)"):
        tiny.decode(torch.zeros(1, 1, 1, 1, 5))


def test_configurations_that_do_not_fit_are_named():
    with pytest.raises(CheckpointError, match=r"'cubist' is not known.*light.*wan"):
        build_autoencoder({"class": "cubist"})
    with pytest.raises(CheckpointError, match="lacks 'latents_mean'"):
        build_autoencoder({name: value for name, value in TINY.items() if name != "latents_mean"})
    with pytest.raises(CheckpointError, match="6 latent channels"):
        build_autoencoder({**TINY, "latents_std": [1.0]})


def test_the_light_class_has_the_same_interface():
    sizes = {"latent_channels": 8, "widths": [8, 8, 16], "encoder_blocks": [1, 1, 1], "decoder_blocks": [1, 1, 1]}
    light = build_autoencoder({"class": "light", **sizes})
    pixels = to_pixels(random_frames(0, 5, 32, 16))
    with torch.no_grad():
        latents = light.encode(pixels)
        assert latents.shape == (1, 2, 2, 1, 8)
        assert torch.allclose(torch.cat(list(light.decode_stream(latents)), dim=2), light.decode(latents), atol=1e-5)
