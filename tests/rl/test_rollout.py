"""Rollouts equal what the engine draws, and an unchanged policy gives back the numbers it sampled with."""

import numpy as np
import pytest
import torch

from openlance.engine.engine import Engine
from openlance.engine.request import ImageSampling
from openlance.flow.sde import make_steps
from openlance.model.lance import LanceModel
from openlance.rl.grpo import Grpo, GrpoRecipe
from openlance.rl.loop import narrow
from openlance.rl.prompts import Prompt
from openlance.rl.rollout import Samples, passes, prepare_samples, request_of, roll_out
from openlance.sequence.bind import Binder
from openlance.train.prepare import freeze
from tests.rl.tiny import SIDE, tiny_model

PROMPT = Prompt("a red circle on a white background", height=SIDE, width=SIDE)
GUIDED = ImageSampling(num_inference_steps=5, guidance_scale=2.0, guidance_interval=(0.5, 1.0))
PLAIN = ImageSampling(num_inference_steps=5)


def learner(prediction: str = "velocity") -> tuple[LanceModel, Binder]:
    model, binder = tiny_model(prediction)
    freeze(model, ("generation",))
    return model, binder


def one_pass(sampling: ImageSampling, count: int = 3, prediction: str = "velocity") -> tuple[LanceModel, Samples]:
    model, binder = learner(prediction)
    (samples,) = prepare_samples(model, binder, PROMPT, sampling, [count])
    return model, samples


@pytest.mark.parametrize("prediction", ["velocity", "data"])
@pytest.mark.parametrize("sampling", [PLAIN, GUIDED], ids=["plain", "guided"])
@pytest.mark.parametrize("steps", [False, True], ids=["euler", "level zero"])
def test_rollouts_without_noise_are_the_engine_s_pictures(prediction: str, sampling: ImageSampling, steps: bool) -> None:
    model, binder = tiny_model(prediction)
    seeds = [3, 4, 5]
    results = Engine(model, binder).run([request_of(PROMPT, sampling, seed) for seed in seeds])
    (samples,) = prepare_samples(model, binder, PROMPT, sampling, [3])
    still = make_steps("flow", 0.0, samples.times, range(1, 3)) if steps else None
    rollout = roll_out(samples, seeds, steps=still)
    for result, latents, clip in zip(results, rollout.latents, rollout.clips(), strict=True):
        torch.testing.assert_close(latents.reshape(result.latents.shape), result.latents, atol=1e-5, rtol=0)
        assert np.abs(clip.frames.astype(int) - result.clip.frames).max() <= 1


@pytest.mark.parametrize("noise", ["flow", "cps"])
@pytest.mark.parametrize("sampling", [PLAIN, GUIDED], ids=["plain", "guided"])
def test_first_ratio_is_one(sampling: ImageSampling, noise: str) -> None:
    """Sampling without gradients and training with them give the same probabilities: 1 to 1e-6 for the step and for the ratio."""
    model, samples = one_pass(sampling)
    grpo = Grpo(GrpoRecipe(noise=noise, window=3, kl=0.1), [p for p in model.parameters() if p.requires_grad], 0, 5)
    rollout = grpo.roll_out(samples, [1, 2, 3], 0)
    assert all(t.result.dtype == torch.float32 for t in rollout.taken)
    terms = list(grpo.losses(rollout, torch.tensor([1.0, -1.0, 0.5]), "0"))
    assert len(terms) == len(rollout.taken) == 3
    for transition, (loss, numbers) in zip(rollout.taken, terms, strict=True):
        assert float(numbers["ratio_off"].max()) <= 1e-6
        assert float(numbers["kl"].max()) <= 1e-9
        assert loss.requires_grad
        velocity = samples.velocity(transition.x, [float(transition.step.time)] * 3)
        old = transition.step.log_prob(transition.result, transition.mean)
        new = transition.step.log_prob(transition.result, transition.step.mean(transition.x, velocity))
        assert float((new - old).detach().abs().max()) <= 1e-6


def test_samples_do_not_depend_on_their_pass() -> None:
    model, binder = tiny_model()
    whole, first, second = prepare_samples(model, binder, PROMPT, PLAIN, [3, 2, 1])
    steps = make_steps("flow", 0.7, whole.times, range(2))
    together = roll_out(whole, [1, 2, 3], steps=steps).latents
    apart = torch.cat([roll_out(first, [1, 2], steps=steps).latents, roll_out(second, [3], steps=steps).latents])
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=0)
    assert list(passes(7, 3)) == [3, 3, 1]
    assert list(passes(7, 0)) == [7]


def test_samples_may_stand_at_different_times() -> None:
    _, samples = one_pass(GUIDED)
    x = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        mixed = samples.velocity(x, [0.9, 0.3, 0.6])
        for i, time in enumerate([0.9, 0.3, 0.6]):
            torch.testing.assert_close(mixed[i], samples.velocity(x, [time] * 3)[i], atol=1e-5, rtol=0)


def test_gradient_of_a_rollout_is_that_of_the_whole_sequence() -> None:
    """The prompt's context is a constant of the generation expert: the slow twin computes everything anew and differentiates all of it."""
    from openlance.engine.prepare import plan
    from openlance.model.lance import batch_of

    model, binder = learner()
    (samples,) = prepare_samples(model, binder, PROMPT, PLAIN, [2])
    x = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0))
    learners = {name: p for name, p in model.named_parameters() if p.requires_grad}
    fast = torch.autograd.grad(samples.velocity(x, [0.6, 0.6]).square().sum(), list(learners.values()), allow_unused=True)
    (branch,) = plan(model, binder, request_of(PROMPT, PLAIN)).branches
    losses = []
    for latents in x:
        times = torch.full((len(latents),), 0.6)
        hidden = model(batch_of(model, branch.packed(), latents, times))
        losses.append(model.velocity(hidden.generation, latents, times[:, None]).square().sum())
    slow = torch.autograd.grad(sum(losses), list(learners.values()), allow_unused=True)
    for name, a, b in zip(learners, fast, slow, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3, msg=name)


def test_only_the_generation_expert_learns() -> None:
    model, samples = one_pass(PLAIN)
    samples.velocity(torch.randn(3, 4, 4), [0.5] * 3).sum().backward()
    touched = {name for name, p in model.named_parameters() if p.grad is not None}
    assert touched
    assert all("generation" in name or name.startswith("latent.") for name in touched)
    narrowed = narrow(model, ["qkv"])
    assert {id(p) for p in narrowed} == {id(p) for n, p in model.named_parameters() if "generation.qkv" in n}
