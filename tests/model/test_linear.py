"""Rows of a product alone, beside others and with other numbers of threads."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from openlance.model import linear
from openlance.model.linear import BLOCK, MANY, Linear
from openlance.pipeline import Lance


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def library_is_steady(layer: nn.Linear, x: torch.Tensor) -> bool:
    """Whether the library's own products of whole blocks are equal bit for bit, whatever their size: what `Linear` builds upon."""
    whole = F.linear(x, layer.weight, layer.bias)
    sizes = [*range(BLOCK, MANY, BLOCK), MANY, MANY + 1, len(x)]
    return all(torch.equal(F.linear(x[:n], layer.weight, layer.bias), whole[:n]) for n in sizes)


@pytest.mark.parametrize(("inputs", "outputs"), [(256, 512), (704, 256), (32, 256)])
@torch.no_grad()
def test_rows_do_not_depend_on_their_neighbours_or_threads(threads: None, inputs: int, outputs: int) -> None:
    layer, x = Linear(inputs, outputs), torch.randn(300, inputs, generator=torch.Generator().manual_seed(1))
    for count in (1, 2):
        torch.set_num_threads(count)
        if not library_is_steady(layer, x):
            pytest.skip("products of this machine's library depend on their size")
    torch.set_num_threads(1)
    whole = layer(x)
    for count in (1, 2):
        torch.set_num_threads(count)
        for rows in range(1, 100):
            assert torch.equal(layer(x[:rows]), whole[:rows]), (count, rows)


@torch.no_grad()
def test_few_rows_are_computed_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[int] = []
    product = F.linear
    monkeypatch.setattr(F, "linear", lambda x, weight, bias: shapes.append(len(x)) or product(x, weight, bias))
    monkeypatch.setattr(linear, "BLOCK", 4)
    layer = Linear(8, 3)
    for rows in (0, 1, 4, 5, 63, 64, 65):
        assert layer(torch.ones(rows, 8)).shape == (rows, 3)
    assert shapes == [0, 4, 4, 8, 64, 64, 65]
    shapes.clear()
    layer(torch.ones(8))
    with torch.enable_grad():
        layer(torch.ones(1, 8))
    layer.bfloat16()(torch.ones(1, 8, dtype=torch.bfloat16))
    assert shapes == [8, 4, 1]


def test_the_transformer_has_no_other() -> None:
    model = Lance.from_pretrained("nano").model
    layers = [m for part in (model.transformer, model.latent, model.head) for m in part.modules()]
    assert {type(m) for m in layers if isinstance(m, nn.Linear)} == {Linear}


def test_pictures_are_equal_bit_for_bit(threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone or beside others, with one thread or two; without the blocks they are not, where this matters."""
    lance = Lance.from_pretrained("nano", dtype="float32", device="cpu")
    probe, x = lance.model.transformer.layers[0].generation.qkv, torch.randn(300, 256, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for count in (1, 2):
            torch.set_num_threads(count)
            if not library_is_steady(probe, x):
                pytest.skip("products of this machine's library depend on their size")
    asked = [
        lance.request("t2i", "a red circle", height=64, width=64, seed=1, num_inference_steps=2),
        lance.request("t2i", "two blue stars", height=64, width=96, seed=2, num_inference_steps=3, guidance_scale=1.0),
        lance.request("text", "hello", max_new_tokens=4),
    ]

    def alike() -> bool:
        torch.set_num_threads(1)
        together = lance.run(asked)
        same = []
        for count in (1, 2):
            torch.set_num_threads(count)
            for request, result in zip(asked, together, strict=True):
                (alone,) = lance.run([request])
                same.append(alone.token_ids == result.token_ids)
                if alone.latents is not None and result.latents is not None:
                    same.append(torch.equal(alone.latents, result.latents))
        return all(same)

    assert alike()
    with torch.no_grad():
        matters = not torch.equal(F.linear(x[:1], probe.weight, probe.bias), F.linear(x[:64], probe.weight, probe.bias)[:1])
    monkeypatch.setattr(linear, "MANY", 0)
    assert not (alike() and matters)
