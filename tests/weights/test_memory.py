"""Peak resident memory of loading 400 MB of float32 weights as bfloat16: at most 1.15x of the 200 MB that remain."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from openlance.model.config import LanceConfig, TransformerConfig
from openlance.weights.export import llm_config
from openlance.weights.load import build_empty, build_model
from openlance.weights.names import transformer_slots
from openlance.weights.tensorfile import write_tensors

SIZES = TransformerConfig(
    vocab_size=24_000,
    hidden_size=768,
    num_hidden_layers=4,
    num_attention_heads=12,
    num_key_value_heads=4,
    head_dim=64,
    intermediate_size=2560,
    mrope_section=(8, 12, 12),
)

MEASURE = """
import re, sys, torch
from pathlib import Path
from openlance.weights.{module} import {name}
def status(key):
    return int(re.search(key + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
{warm_up}
before = status("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
{load}
print(status("VmHWM") - before)
"""


def peak_of(**code) -> int:
    run = subprocess.run([sys.executable, "-c", MEASURE.format(**code)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return int(run.stdout)


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from /proc"),
]


def test_a_checkpoint_of_400_megabytes(tmp_path, own_folder):
    config = LanceConfig(transformer=SIZES)
    shapes = build_empty(lambda: build_model(config)).state_dict()
    tensors = {}
    for slot in transformer_slots(SIZES):
        shape = shapes[slot.target].shape
        tensors[slot.name] = torch.full((1,), 0.5).expand(slot.rows or shape[0], *shape[1:])
    write_tensors(tmp_path / "model.safetensors", tensors)
    (tmp_path / "llm_config.json").write_text(json.dumps(llm_config(SIZES)))
    stored = (tmp_path / "model.safetensors").stat().st_size
    assert 380e6 < stored < 420e6
    (tmp_path / "tokenizer.json").write_text("{}")
    peak = peak_of(
        module="load",
        name="load_checkpoint, resolve",
        warm_up=f"load_checkpoint(resolve({str(own_folder)!r}))",
        load=f"model = load_checkpoint(resolve({str(tmp_path)!r}), dtype=torch.bfloat16); assert model.embedding.weight[-1, -1] == 0.5",
    )
    ratio = peak / (stored / 2)
    print(f"peak {peak / 1e6:.1f} MB for weights of {stored / 2e6:.1f} MB: {ratio:.3f}")
    assert 0.95 < ratio < 1.15


def test_a_pickle_of_300_megabytes(tmp_path):
    torch.save({f"block.{i}": torch.full((12, 1 << 20), 0.5) for i in range(6)}, tmp_path / "a.pth")
    read = "assert sum(float(p.sum()) for n in file.entries for _, p in file.rows(n)) == 36 << 20"
    peak = peak_of(
        module="tensorfile",
        name="open_tensors",
        warm_up="torch.ones(1).sum()",
        load=f"file = open_tensors(Path({str(tmp_path / 'a.pth')!r})); {read}",
    )
    print(f"peak {peak / 1e6:.1f} MB")
    assert 10e6 < peak < 100e6
