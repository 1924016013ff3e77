"""The two-stream transformer and its parts against slow twins and golden tables."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from openlance.errors import CheckpointError
from openlance.model.attention import RowGroup, attend, blocks_of
from openlance.model.config import LanceConfig, TransformerConfig
from openlance.model.context import Context
from openlance.model.lance import LanceModel, RaggedBatch, batch_of
from openlance.model.latent import place_embedding, time_frequencies
from openlance.model.mot import IN_CACHE, Expert, swiglu
from openlance.model.rope import Rope, Rotation, rotate
from openlance.sequence.pack import PackedSequence, pack
from openlance.sequence.positions import positions
from openlance.sequence.segment import Kind, Role, Segment

SIZES = TransformerConfig(
    vocab_size=50,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    intermediate_size=48,
    mrope_section=(2, 3, 3),
    rope_inv_freq_dtype="float32",
)


@pytest.fixture(scope="module")
def model() -> LanceModel:
    torch.manual_seed(0)
    built = LanceModel(LanceConfig(transformer=SIZES, latent_channels=6)).eval()
    for name, parameter in built.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return built


def slow_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def slow_rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate-half of one token's heads (heads, d) by angles (d/2,), pair by pair."""
    out = x.clone()
    half = x.shape[-1] // 2
    for i in range(half):
        a, b = x[:, i], x[:, i + half]
        out[:, i] = a * angles[i].cos() - b * angles[i].sin()
        out[:, i + half] = b * angles[i].cos() + a * angles[i].sin()
    return out


def slow_expert(model: LanceModel, layer: int, generation: bool) -> Expert:
    chosen = model.transformer.layers[layer]
    return chosen.generation if generation else chosen.understanding


def slow_forward(model: LanceModel, packed: PackedSequence, latents: Tensor, times: Tensor) -> Tensor:
    """Hidden states (S, D) token by token in sequence order: every token through its own expert, full attention matrix."""
    sizes = model.config.transformer
    axis = [a for a, n in enumerate(sizes.mrope_section) for _ in range(n)]
    frequencies = [sizes.rope_theta ** (-2 * i / sizes.head_dim) for i in range(sizes.head_dim // 2)]
    mask = packed.mask()
    x = []
    cell = 0
    for i in range(len(packed)):
        if packed.latent[i]:
            time = model.latent.time(time_frequencies(times[cell : cell + 1]))[0]
            x.append(model.latent.input(latents[cell]) + time + place_embedding(packed.coordinates[:, i : i + 1], sizes.hidden_size)[0])
            cell += 1
        else:
            x.append(model.embedding(packed.ids[i]))
    for layer in range(sizes.num_hidden_layers):
        heads = []
        for i, token in enumerate(x):
            expert = slow_expert(model, layer, bool(packed.latent[i]))
            h = slow_norm(token, expert.input_norm.weight, sizes.rms_norm_eps)
            q, k, v = expert.qkv(h).view(-1, sizes.head_dim).split([4, 2, 2])
            angles = torch.tensor([float(packed.positions[a, i]) * f for a, f in zip(axis, frequencies, strict=True)])
            q = slow_rotate(slow_norm(q, expert.q_norm.weight, sizes.rms_norm_eps), angles)
            k = slow_rotate(slow_norm(k, expert.k_norm.weight, sizes.rms_norm_eps), angles)
            heads.append((q, k, v))
        following = []
        for i, token in enumerate(x):
            expert = slow_expert(model, layer, bool(packed.latent[i]))
            seen = [j for j in range(len(x)) if mask[i, j]]
            mixed = []
            for h in range(4):
                scores = torch.stack([heads[i][0][h] @ heads[j][1][h // 2] for j in seen]) / sizes.head_dim**0.5
                weights = scores.softmax(0)
                mixed.append(sum(w * heads[j][2][h // 2] for w, j in zip(weights, seen, strict=True)))
            token = token + expert.output(torch.cat(mixed))
            gate, up = expert.gate_up(slow_norm(token, expert.mlp_norm.weight, sizes.rms_norm_eps)).chunk(2)
            following.append(token + expert.down(F.silu(gate) * up))
        x = following
    norms = (model.transformer.norm_understanding.weight, model.transformer.norm_generation.weight)
    return torch.stack([slow_norm(t, norms[int(packed.latent[i])], sizes.rms_norm_eps) for i, t in enumerate(x)])


def example() -> PackedSequence:
    segments = [
        Segment(Kind.TEXT, Role.TEMPLATE, (5, 6, 7)),
        Segment(Kind.LATENT, Role.SOURCE, (1, 2, 3), (1, 2, 2)),
        Segment(Kind.TEXT, Role.PROMPT, (8, 9)),
        Segment(Kind.LATENT, Role.TARGET, (1, 2, 3), (1, 2, 3)),
        Segment(Kind.TEXT, Role.TEMPLATE, (4,)),
    ]
    return pack([segments], [positions(segments)])


def streams(model: LanceModel, packed: PackedSequence, latents: Tensor, times: Tensor) -> Tensor:
    hidden = model(batch_of(model, packed, latents, times))
    out = torch.empty(len(packed), model.config.transformer.hidden_size)
    out[~packed.latent], out[packed.latent] = hidden.understanding, hidden.generation
    return out


@pytest.mark.parametrize("grad", [True, False])
def test_two_streams_equal_token_by_token(model: LanceModel, grad: bool) -> None:
    """Both the training path and the in-place inference path."""
    packed = example()
    latents, times = torch.randn(10, 6), torch.cat([torch.zeros(4), torch.full((6,), 0.7)])
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(
            streams(model, packed, latents, times), slow_forward(model, packed, latents, times), atol=2e-5, rtol=1e-4
        )


def test_long_inputs_take_the_chunked_path_unchanged(model: LanceModel) -> None:
    norm = model.transformer.norm_understanding
    x = torch.randn(2 * IN_CACHE // 32 + 3, 32)
    with torch.no_grad():
        torch.testing.assert_close(norm(x), slow_norm(x, norm.weight, norm.eps), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(norm(x), F.rms_norm(x, (32,), norm.weight, norm.eps), atol=0, rtol=0)


def test_heads_turned_in_place_equal_those_with_gradients(model: LanceModel) -> None:
    expert, count = model.transformer.layers[0].generation, 2 * IN_CACHE // 128 + 3
    x, place = torch.randn(count, 32), torch.randint(0, 99, (3, count))
    rotation = model.rotation(place)
    with torch.no_grad():
        fast = expert.project(x, rotation)
        few = expert.project(x[:5], model.rotation(place[:, :5]))
    torch.testing.assert_close(fast, expert.project(x, rotation), atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(few, fast[:, :, :5], atol=2e-6, rtol=1e-5)


def test_a_group_of_rows_equals_its_rows(model: LanceModel) -> None:
    packed = example()
    latents, times = torch.randn(3, 10, 6), torch.full((10,), 0.5)
    one = [batch_of(model, packed, x, times) for x in latents]
    u, g = one[0].groups[0].understanding, one[0].groups[0].generation

    def tile(rotation):
        return Rotation(cos=rotation.cos.repeat(3, 1, 1), sin=rotation.sin.repeat(3, 1, 1))

    together = RaggedBatch(
        groups=[RowGroup(u, g, mask=one[0].groups[0].mask, count=3)],
        ids=one[0].ids.repeat(3),
        rotations=(tile(one[0].rotations[0]), tile(one[0].rotations[1])),
        place=one[0].place.repeat(3, 1),
        latents=latents.flatten(0, 1),
        times=one[0].times,
        time_index=one[0].time_index.repeat(3),
    )
    hidden = model(together)
    for i, batch in enumerate(one):
        alone = model(batch)
        torch.testing.assert_close(hidden.generation[i * g : (i + 1) * g], alone.generation, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(hidden.understanding[i * u : (i + 1) * u], alone.understanding, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("streams", [(3, 9), (12, 0), (0, 12)])
def test_attention_by_blocks_equals_the_whole_mask(streams: tuple[int, int]) -> None:
    """Blocks that do not see each other, causal ones, ones that see all of another, two rows with different masks."""
    sizes = [3, 4, 5]
    mask = torch.ones(2, 1, 12, 12, dtype=torch.bool)
    mask[:, :, :3, :3] = torch.ones(3, 3, dtype=torch.bool).tril()
    mask[:, :, :3, 3:] = mask[:, :, 3:7, 7:] = mask[:, :, 7:, 3:7] = False
    mask[1, :, 7:, 1] = False
    blocks = blocks_of(mask, sizes, torch.float32)
    assert [block.keys for block in blocks] == [(0,), (0, 1), (0, 2)]
    assert [None if block.mask is None else tuple(block.mask.shape) for block in blocks] == [(2, 1, 3, 3), None, (2, 1, 1, 8)]
    heads = [torch.randn(1, 8, 2 * size, 16).requires_grad_() if size else None for size in streams]  # (1, heads, rows x tokens, d)
    inputs = [stream for stream in heads if stream is not None]
    found = []
    for group in (RowGroup(*streams, mask=mask, count=2, plain=True), RowGroup(*streams, count=2, blocks=blocks)):
        outputs = [x for x in attend(0, (heads[0], heads[1]), (4, 2, 2), [group]) if x is not None]
        found.append([*outputs, *torch.autograd.grad(sum(x.sin().sum() for x in outputs), inputs)])
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


@given(shift=st.integers(0, 2000), seed=st.integers(0, 100))
@settings(max_examples=20)
def test_rotation_keeps_lengths_and_relative_angles(shift: int, seed: int) -> None:
    """Dot products depend on the difference of positions only: moving both along an axis changes nothing."""
    rope = Rope(SIZES)
    generator = torch.Generator().manual_seed(seed)
    q, k = torch.randn(2, 1, 2, 16, generator=generator)
    place = torch.randint(0, 50, (3, 2), generator=generator)

    def product(moved: Tensor) -> Tensor:
        rotation = rope(moved, torch.float32)
        first, second = rotation.take(torch.tensor([0])), rotation.take(torch.tensor([1]))
        return (rotate(q, first) * rotate(k, second)).sum(-1)

    torch.testing.assert_close(product(place), product(place + shift), atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(rotate(q, rope(place[:, :1], torch.float32)).norm(dim=-1), q.norm(dim=-1), atol=1e-4, rtol=1e-4)


def test_rotation_in_place_equals_with_gradient() -> None:
    rope, x = Rope(SIZES), torch.randn(5, 3, 16)
    rotation = rope(torch.randint(0, 99, (3, 5)), torch.float32)
    with torch.no_grad():
        fast = rotate(x, rotation)
    torch.testing.assert_close(fast, rotate(x.requires_grad_(), rotation), atol=1e-6, rtol=1e-6)


def test_context_grows_forks_and_forgets() -> None:
    context = Context(SIZES, torch.device("cpu"), torch.float32)
    written = []
    for n in (3, 400, 1):
        context.reserve(n)
        heads = torch.randn(1, 4, n, 16)
        for layer in range(2):
            seen = context.extend(layer, heads + layer)
        written.append(heads)
        context.commit(n)
    whole = torch.cat(written, 2)
    torch.testing.assert_close(seen, whole + 1)
    fork = context.fork(2)
    assert fork.length == context.length == 404
    fork.extend(0, torch.zeros(1, 4, 2, 16))
    fork.commit(2)
    context.reserve(2)
    torch.testing.assert_close(context.extend(0, torch.ones(1, 4, 2, 16))[:, :, :404], whole)
    assert context.length == 404


def test_time_and_place_golden(golden) -> None:
    case = golden("misc")
    torch.testing.assert_close(time_frequencies(case.tensor("t")), case.tensor("time_freq"), atol=1e-6, rtol=0)
    index = case.tensor("latent_pos_index_wide_t1_h2_w70")
    inside = index[:64]
    coordinates = torch.stack([inside // 4096, inside // 64 % 64, inside % 64])
    torch.testing.assert_close(place_embedding(coordinates, 128), case.tensor("latent_pos_embed_wide")[:64], atol=1e-6, rtol=0)


def test_data_prediction_becomes_velocity(model: LanceModel) -> None:
    config = dataclasses.replace(model.config, prediction="data")
    other = LanceModel(config)
    other.load_state_dict(model.state_dict())
    hidden, latents, times = torch.randn(5, 32), torch.randn(5, 6), torch.rand(5, 1) * 0.9 + 0.1
    torch.testing.assert_close(other.velocity(hidden, latents, times), (latents - model.velocity(hidden, latents, times)) / times)


def test_config_round_trip_and_unknown_keys() -> None:
    config = LanceConfig(transformer=SIZES, latent_channels=6, vision={"depth": 2})
    assert LanceConfig.from_dict(config.to_dict()) == config
    with pytest.raises(CheckpointError, match=r"config\.transformer has unknown keys \['hiden_size'\]"):
        LanceConfig.from_dict({"transformer": {"hiden_size": 3}})


@pytest.mark.parametrize("rows", [1, 128, IN_CACHE // 48, IN_CACHE // 48 + 1, IN_CACHE // 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_swiglu_in_place_equals_the_plain_one(rows: int, dtype: torch.dtype) -> None:
    fused = torch.randn(rows, 2 * 48, generator=torch.Generator().manual_seed(rows)).to(dtype)
    gate, up = fused.clone().chunk(2, -1)
    with torch.inference_mode():
        result = swiglu(fused.clone())
    assert result.is_contiguous()
    assert torch.equal(result, F.silu(gate) * up)
