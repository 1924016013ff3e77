"""The fast dtype follows from the instructions of the device and from what fits memory."""

import pytest
import torch

from openlance.model import precision
from openlance.model.precision import fast_dtype, host_memory
from openlance.train.muon import orthogonalise, orthogonalise_together


def test_a_processor_that_multiplies_bfloat16_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda kind: True)
    assert fast_dtype("cpu") == torch.bfloat16


def test_one_without_uses_float32_while_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda kind: False)
    monkeypatch.setattr(precision, "host_memory", lambda: 16e9)
    assert fast_dtype("cpu") == torch.float32
    assert fast_dtype("cpu", 20_000_000) == torch.float32
    assert fast_dtype("cpu", 6_000_000_000) == torch.bfloat16
    assert fast_dtype("cuda", 6_000_000_000) == torch.float32


@pytest.mark.skipif(not torch.backends.cpu.get_cpu_capability().startswith("AVX"), reason="tells of x86 processors")
@pytest.mark.parametrize(
    ("bf16", "tiles", "sse4a", "expected"),
    [(True, True, False, True), (True, False, True, True), (True, False, False, False), (False, False, True, False)],
    ids=["Intel with AMX", "AMD with AVX512-BF16", "Intel without AMX", "AMD without"],
)
def test_what_the_processor_says(monkeypatch: pytest.MonkeyPatch, bf16: bool, tiles: bool, sse4a: bool, expected: bool) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tiles)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"sse4a": sse4a})
    assert precision.multiplies_bfloat16.__wrapped__("cpu") == expected


def test_what_this_machine_says() -> None:
    flags = torch.cpu.get_capabilities()
    if flags["architecture"] == "x86_64":
        assert precision.multiplies_bfloat16("cpu") == bool(flags["amx_tile"] or (flags["avx512_bf16"] and flags["sse4a"]))
    assert host_memory() > 1e9


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_orthogonal_steps_bear_either_dtype(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    monkeypatch.setattr("openlance.train.muon.fast_dtype", lambda device: dtype)
    gradient = torch.randn(48, 96, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(gradient))
    assert values.min() > 0.6
    assert values.max() < 1.3
    assert torch.allclose(orthogonalise_together([gradient])[0], orthogonalise(gradient), atol=2e-2)
