"""The training path against the golden training cases: ids, positions, mask, noisy latents, losses and gradient norms."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from openlance.data.batch import TrainingBatch, assemble
from openlance.sequence.tokenizer import Tokenizer
from openlance.train.losses import (
    Attention,
    LossSums,
    LossWeights,
    Objective,
    answer_losses,
    compute_loss,
    noisy_latents,
    ragged,
    target_losses,
)
from openlance.train.losses import Path as NoisePath
from openlance.weights.load import load_pretrained
from openlance.weights.names import transformer_slots
from tests.train.golden_training import ANCHORS, golden_samples

CASES = ("train_main", "train_more")


def sequence_order(batch: TrainingBatch, latent: Tensor) -> Tensor:
    """(S,): where each token of the packed golden sequence lies in [understanding, generation] of the batch."""
    order = torch.empty(latent.numel(), dtype=torch.long)
    order[~latent] = torch.arange(int((~latent).sum()))
    order[latent] = batch.ids.numel() + torch.arange(int(latent.sum()))
    return order


def golden_path(case: Any, batch: TrainingBatch) -> NoisePath:
    cell_times = case.tensor("timesteps_final")
    times = torch.zeros(batch.num_targets + 1)
    times[batch.target[batch.target > 0]] = cell_times[batch.target > 0]
    return NoisePath(times, case.tensor("noise"))


def load(golden_dir: Path) -> Any:
    """The golden transformer. These cases were made with rotary frequencies in float32."""
    model, _ = load_pretrained(golden_dir, dtype="float32", device="cpu")
    model.rope.config = replace(model.rope.config, rope_inv_freq_dtype="float32")
    model.rope.reset()
    model.vision = model.autoencoder = None
    return model


def vocabulary(golden_dir: Path) -> int:
    return len(Tokenizer.load(golden_dir))


def objective(case: Any, golden_dir: Path, attention: Attention = "fused") -> Objective:
    return Objective(LossWeights(case["ce_weight"], case["mse_weight"]), vocabulary(golden_dir), attention)


@pytest.fixture(scope="module")
def model(golden_dir: Path) -> Any:
    return load(golden_dir)


@pytest.fixture(params=CASES)
def case(request: Any, golden: Any) -> Any:
    return golden(request.param)


@pytest.mark.usefixtures("full_golden")
def test_tokens_positions_mask_and_noise_are_those_of_the_reference(case: Any, golden_dir: Path) -> None:
    samples = golden_samples(case, golden_dir)
    batch = assemble(samples, ANCHORS)
    length = sum(case["sample_lens"][: len(samples)])
    latent = torch.zeros(length, dtype=torch.bool)
    latent[case.tensor("vae_token_indexes")] = True
    order = sequence_order(batch, latent)
    assert [sum(map(len, sample.segments)) for sample in samples] == case["sample_lens"][: len(samples)]
    assert torch.equal(batch.ids, case.tensor("input_ids")[:length][~latent])
    positions = torch.cat(batch.positions, 1)[:, order]
    assert torch.equal(positions, case.tensor("position_ids")[:, :length])
    dense = torch.from_numpy(np.unpackbits(case.tensor("attention_mask_packbits").numpy(), axis=1).astype(bool))[:length, :length]
    assert torch.equal(whole_mask(batch)[order][:, order], dense)
    assert (noisy_latents(batch, golden_path(case, batch)) - case.tensor("noisy_latent")).abs().max() < 1e-6
    assert int((batch.target > 0).sum()) == case["total_mse_tokens"]


def whole_mask(batch: TrainingBatch) -> Tensor:
    """The masks of all rows as one matrix over [understanding, generation] of the batch."""
    U = batch.ids.numel()
    mask = torch.zeros(U + batch.target.numel(), U + batch.target.numel(), dtype=torch.bool)
    u = g = 0
    for row in batch.rows:
        for one in row.mask[:, 0]:
            index = torch.cat([torch.arange(u, u + row.understanding), U + torch.arange(g, g + row.generation)])
            mask[index[:, None], index[None]] = one
            u, g = u + row.understanding, g + row.generation
    return mask


@pytest.mark.usefixtures("full_golden")
@pytest.mark.parametrize(("round_to", "attention"), [(1, "fused"), (16, "fused"), (16, "plain"), (16, "flex")])
def test_losses_are_those_of_the_reference(case: Any, golden_dir: Path, model: Any, round_to: int, attention: Attention) -> None:
    batch = assemble(golden_samples(case, golden_dir), ANCHORS, round_to)
    path = golden_path(case, batch)
    hidden = model(ragged(model, batch, path, attention))
    ce = answer_losses(model, batch, hidden.understanding, vocabulary(golden_dir))
    error, weight = target_losses(model, batch, path, hidden.generation, cap=4.0)
    assert (ce - case.tensor("ce")).abs().max() < 1e-4
    assert (error - case.tensor("mse").mean(-1)).abs().max() < 1e-4
    assert bool((weight == 1).all())
    sums = LossSums()
    goal = objective(case, golden_dir, attention)
    assert abs(float(compute_loss(model, batch, path, goal, batch.counts, sums)) - case["loss"]) < 1e-4
    sums.settle()
    assert sum(sums.answers.values()) == case.tensor("ce").numel()


@pytest.mark.usefixtures("full_golden")
def test_gradients_have_the_norms_of_the_reference(case: Any, golden_dir: Path) -> None:
    model = load(golden_dir).requires_grad_(True)
    batch = assemble(golden_samples(case, golden_dir), ANCHORS)
    compute_loss(model, batch, golden_path(case, batch), objective(case, golden_dir), batch.counts, LossSums()).backward()
    parameters = dict(model.named_parameters())
    checked = 0
    for slot in transformer_slots(model.config.transformer):
        gradient = parameters[slot.target].grad
        if slot.name not in case["grad_norms_f64"]:
            continue
        rows = gradient if slot.rows is None else gradient[slot.start : slot.start + slot.rows]
        wanted = case["grad_norms_f64"][slot.name]
        assert abs(float(rows.double().norm()) - wanted) < 1e-4 * max(1.0, wanted), slot.name
        checked += 1
    assert checked == len(case["grad_norms_f64"])
