"""The verifier sees every kind of difference: one number of a case is changed, and exactly that is reported."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from openlance.errors import CheckpointError
from openlance.verify.check import compare, quantity_of
from openlance.verify.golden import Golden, parse_rendered
from openlance.verify.run import CaseReport, verify, verify_case


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> Golden:
    return Golden(golden_dir)


def run_changed(golden: Golden, folder: Path, case: str, name: str, change: Callable[[Tensor], Tensor]) -> CaseReport:
    """The report of a copy of a case with one tensor changed."""
    source = golden.folder / case
    target = folder / case
    shutil.copytree(source, target)
    (target / "tensors.safetensors").chmod(0o644)
    tensors = load_file(source / "tensors.safetensors")
    if name not in tensors:
        pytest.skip(f"{name} is not in this copy of {case}")
    tensors[name] = change(tensors[name].clone())
    (target / "tensors.safetensors").unlink()
    save_file(tensors, target / "tensors.safetensors")
    return verify_case(golden, target)


def last(value: float) -> Callable[[Tensor], Tensor]:
    """Adds to the last element."""

    def change(tensor: Tensor) -> Tensor:
        tensor.view(-1)[-1] += value
        return tensor

    return change


@pytest.mark.parametrize(
    ("case", "name", "change"),
    [
        ("t2i", "uncond_input_ids", last(1)),
        ("t2i", "position_ids", last(1)),
        ("t2i", "modality", last(1)),
        ("t2i", "timesteps", last(1e-4)),
        ("t2i", "step0.v", last(1e-3)),
        ("image_edit", "final_latent.1", last(1e-3)),
        ("image_edit", "kv.final_latent", last(1e-3)),
        ("t2i", "final_latent.0", lambda tensor: tensor[..., :-1].contiguous()),
        ("t2i", "final_latent.0", lambda tensor: tensor * float("nan")),
        ("x2t_image", "logits", last(3e-4)),
        ("x2t_image", "generated_ids", last(1)),
        ("train_main", "ce", last(1e-3)),
        ("train_main", "mse", last(1e-3)),
        ("vae", "mu_normalised_thwc.1", last(1e-3)),
        ("misc", "time_embed", last(1e-3)),
    ],
)
def test_a_changed_number_fails(golden: Golden, tmp_path: Path, case: str, name: str, change: Callable[[Tensor], Tensor]) -> None:
    report = run_changed(golden, tmp_path, case, name, change)
    assert name in {check.name for check in report.checks if check.status == "fail"}
    assert not report.passed


def test_a_changed_mask_fails(golden: Golden, tmp_path: Path) -> None:
    names = load_file(golden.folder / "t2i" / "tensors.safetensors")
    name = "attention_mask" if "attention_mask" in names else "attention_mask_packbits"

    def flip(tensor: Tensor) -> Tensor:
        tensor[-1, 0] = ~tensor[-1, 0]
        return tensor

    report = run_changed(golden, tmp_path, "t2i", name, flip)
    assert [check.name for check in report.checks if check.status == "fail"] == ["attention_mask"]


def test_a_quirk_excuses_guidance_but_not_inputs(golden: Golden, tmp_path: Path) -> None:
    report = run_changed(golden, tmp_path, "quirk_prompt_found_in_system", "input_ids", last(1))
    failed = {check.name for check in report.checks if check.status == "fail"}
    assert failed == {"input_ids"}
    assert "final_latent.0" in {check.name for check in report.checks if check.status == "intended"}


def test_broken_cases_are_reported_and_stop_nothing(golden: Golden, tmp_path: Path) -> None:
    unknown, corrupt = tmp_path / "unknown", tmp_path / "corrupt"
    for folder in (unknown, corrupt):
        folder.mkdir()
    (unknown / "case.json").write_text(json.dumps({"case": "unknown", "colour": 3}))
    (corrupt / "case.json").write_text("{")
    assert "no known form" in (verify_case(golden, unknown).error or "")
    assert "cannot be read as JSON" in (verify_case(golden, corrupt).error or "")


def test_folder_without_cases_is_an_error(tmp_path: Path, golden: Golden) -> None:
    with pytest.raises(CheckpointError, match="no folder"):
        list(verify(tmp_path / "nowhere"))
    with pytest.raises(CheckpointError, match=r"no case .* matches 'zebra'"):
        list(verify(golden.folder, "zebra"))


def test_comparison_rules() -> None:
    assert compare("input_ids", torch.tensor([1, 2]), torch.tensor([1, 2])).status == "pass"
    assert compare("final_latent.0", torch.zeros(2), torch.tensor([0.0, 4e-4])).status == "pass"
    assert compare("final_latent.0", torch.zeros(2), torch.tensor([0.0, 6e-4])).status == "fail"
    assert compare("final_latent.0", torch.zeros(2), torch.zeros(3)).status == "fail"
    assert compare("split_lens", [1, 2], [1, 3]).status == "fail"
    assert compare("split_lens", [1, 2], [1, 3], quirk=True).status == "intended"
    assert compare("position_ids", torch.zeros(1), torch.ones(1), quirk=True).status == "fail"
    assert quantity_of("step12.v_uncond").label == "velocities"
    assert quantity_of("never heard of it").label == "other"


def test_rendered_text_gives_its_three_texts() -> None:
    visual = "<|vision_start|><|video_pad|><|video_pad|><|vision_end|>"
    text = f"<|im_start|>system\nS\nS<|im_end|>\n<|im_start|>user\n{visual}{visual}Q<|im_end|>\n<|im_start|>assistant\nA<|im_end|>"
    wording = parse_rendered(text)
    assert (wording.system, wording.prompt, wording.answer) == ("S\nS", "Q", "A")
    with pytest.raises(CheckpointError, match="not of the known form"):
        parse_rendered("hello")
