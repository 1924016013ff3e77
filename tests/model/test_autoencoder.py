"""The light autoencoder: causal, streamed pieces equal the whole, an image is the start of a still video."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from openlance.errors import CheckpointError, LanceError
from openlance.model.autoencoder import Autoencoder, AutoencoderConfig, Block, _shuffle, _unshuffle
from openlance.model.pixels import to_pixels
from openlance.model.vae import build_autoencoder

SMALL = {"latent_channels": 8, "widths": (16, 16, 32), "encoder_blocks": (1, 1, 1), "decoder_blocks": (1, 1, 1)}


@pytest.fixture(scope="module", params=[0, 2], ids=["once", "corrected"])
def model(request: pytest.FixtureRequest) -> Autoencoder:
    torch.manual_seed(0)
    statistics = {"latents_mean": tuple(torch.randn(8).tolist()), "latents_std": tuple((torch.rand(8) + 0.5).tolist())}
    return Autoencoder(AutoencoderConfig(**SMALL, **statistics, corrections=request.param)).eval().requires_grad_(False)


def video(frames: int, height: int = 64, width: int = 64, seed: int = 0) -> Tensor:
    return torch.rand(2, 3, frames, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 4), st.integers(1, 5), st.integers(1, 5))
def test_sizes_of_any_grid(model: Autoencoder, groups: int, rows: int, columns: int) -> None:
    frames = 4 * groups + 1
    latents = model.encode(video(frames, 16 * rows, 16 * columns))
    assert latents.shape == (2, groups + 1, rows, columns, 8)
    assert latents.dtype == torch.float32
    assert model.decode(latents).shape == (2, 3, frames, 16 * rows, 16 * columns)


def test_streamed_pieces_are_the_whole(model: Autoencoder) -> None:
    latents = torch.randn(2, 5, 4, 6, 8, generator=torch.Generator().manual_seed(1))
    pieces = list(model.decode_stream(latents))
    assert [piece.shape[2] for piece in pieces] == [1, 4, 4, 4, 4]
    assert torch.equal(torch.cat(pieces, 2), model.decode(latents))


def test_nothing_looks_ahead(model: Autoencoder) -> None:
    pixels = video(13)
    changed = pixels.clone()
    changed[:, :, 5:] = -pixels[:, :, 5:]
    before, after = model.encode(pixels), model.encode(changed)
    assert torch.equal(before[:, :2], after[:, :2])
    assert not torch.allclose(before[:, 2], after[:, 2])
    future = before.clone()
    future[:, 2:] += 1
    assert torch.equal(model.decode(before)[:, :, :5], model.decode(future)[:, :, :5])
    assert not torch.allclose(model.decode(before)[:, :, 5], model.decode(future)[:, :, 5])


def test_the_past_is_seen(model: Autoencoder) -> None:
    pixels = video(9)
    changed = pixels.clone()
    changed[:, :, 4] = -pixels[:, :, 4]
    assert not torch.allclose(model.encode(pixels)[:, 2], model.encode(changed)[:, 2]), "the third latent frame must see frame 4"


def test_an_image_is_the_start_of_a_still_video(model: Autoencoder) -> None:
    still = video(1).expand(-1, -1, 9, -1, -1)
    torch.testing.assert_close(model.encode(still)[:, :1], model.encode(still[:, :, :1]), rtol=1e-5, atol=1e-5)
    if not model.config.corrections:  # what these weights decode is not still
        torch.testing.assert_close(model.encode(still)[:, 2], model.encode(still)[:, 0], rtol=1e-4, atol=1e-4)


def test_shift_equals_a_loop_over_frames() -> None:
    torch.manual_seed(2)
    block = Block(16)
    x = torch.randn(2, 4, 3, 5, 16)
    h = torch.nn.functional.silu(block.norm(x))
    frames = []
    for f in range(4):
        mixed = h[:, f : f + 1].clone()
        mixed[..., :4] = h[:, max(f - 1, 0), None, :, :, :4]
        frames.append(x[:, f : f + 1] + block.mix(torch.nn.functional.silu(block.spread(mixed))))
    torch.testing.assert_close(block(x, {}), torch.cat(frames, 1), rtol=1e-5, atol=1e-6)


def test_shuffle_is_the_librarys_and_has_an_inverse() -> None:
    x = torch.randn(2, 3, 4, 5, 12)
    flat = x.flatten(0, 1).unflatten(-1, (4, 3)).transpose(-1, -2).flatten(-2).permute(0, 3, 1, 2)
    expected = torch.nn.functional.pixel_shuffle(flat, 2).permute(0, 2, 3, 1).unflatten(0, (2, 3))
    assert torch.equal(_shuffle(x, 2), expected)
    assert torch.equal(_unshuffle(_shuffle(x, 2), 2), x)


def test_raw_latents_are_bounded_and_statistics_applied(model: Autoencoder) -> None:
    pixels = video(5)
    raw = model.encode_raw(pixels)
    assert (raw.pow(2).mean(-1) <= 1 + 1e-5).all()
    torch.testing.assert_close(model.encode(pixels) * model.latents_std + model.latents_mean, raw)
    torch.testing.assert_close(model.decode(model.encode(pixels)), model.decode_raw(raw).clamp(-1, 1))


def test_bytes_equal_floats_and_extra_frames_are_dropped(model: Autoencoder) -> None:
    frames = torch.randint(0, 256, (7, 64, 80, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    assert torch.equal(model.encode(frames), model.encode(to_pixels(frames[:5])))


def test_corrections_encode_the_first_frame_again_with_what_was_lost(model: Autoencoder) -> None:
    once = Autoencoder(AutoencoderConfig(**SMALL)).eval().requires_grad_(False)
    once.load_state_dict(model.state_dict())
    pixels = video(5)
    wanted = pixels.clone()
    for _ in range(model.config.corrections):
        lost = pixels - once.decode_raw(once.encode_raw(wanted)).clamp(-1, 1)
        wanted[:, :, 0] += lost[:, :, 0]
    torch.testing.assert_close(model.encode_raw(pixels), once.encode_raw(wanted), rtol=1e-5, atol=1e-5)
    assert torch.equal(wanted, pixels) == (model.config.corrections == 0)


@pytest.mark.parametrize("corrections", [0, 1])
def test_every_weight_learns(corrections: int) -> None:
    torch.manual_seed(0)
    model = Autoencoder(AutoencoderConfig(**SMALL, corrections=corrections))
    pixels = video(5)
    (model.decode_raw(model.encode_raw(pixels)) - pixels).abs().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_errors_name_the_remedy(model: Autoencoder) -> None:
    with pytest.raises(LanceError, match="multiples of 16"):
        model.encode(video(1, 64, 72))
    with pytest.raises(LanceError, match="uint8"):
        model.encode(torch.zeros(3, 64, 64))
    with pytest.raises(LanceError, match="8"):
        model.decode(torch.zeros(1, 1, 4, 4, 7))
    with pytest.raises(LanceError, match="not empty"):
        list(model.decode_stream(torch.zeros(1, 0, 4, 4, 8)))


def test_built_by_name_from_json_values() -> None:
    config = {"class": "light", **{k: list(v) if isinstance(v, tuple) else v for k, v in SMALL.items()}, "latents_std": [2.0] * 8}
    built = build_autoencoder(config)
    assert isinstance(built, Autoencoder)
    assert built.latents_std.tolist() == [2.0] * 8
    with pytest.raises(CheckpointError, match="corrections 1000 must be 0 to 8"):
        build_autoencoder({**config, "corrections": 1000})
    with pytest.raises(CheckpointError, match="latents_mean"):
        build_autoencoder({**config, "latents_mean": [0.0] * 7})
