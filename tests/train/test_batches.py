"""Packed, bucketed and one by one are the same loss; so is one sample with its target seen several times."""

from collections import Counter

import pytest
import torch

from openlance.data.batch import TrainingBatch, assemble
from openlance.data.layout import stream_sizes
from openlance.data.records import Words
from openlance.data.sample import MediumFeatures, Sample, bind_sample
from openlance.model.lance import LanceModel
from openlance.sequence.bind import Binder
from openlance.sequence.tasks import TASKS
from openlance.sequence.template import OWN_WORDING
from openlance.train import losses
from openlance.train.losses import Attention, LossSums, Objective, Path, PathSampling, compute_loss, draw_path, ragged
from tests.train.tiny import ANCHORS, WIDTH, tiny_model, tiny_sample, tiny_tokenizer

SAMPLES = [tiny_sample(task, seed) for seed, task in enumerate([*TASKS, "t2i", "t2i", "understand", "i2v"])]


def loss_of(model: LanceModel, batch: TrainingBatch, path: Path, totals: Counter[str], attention: Attention = "fused") -> float:
    return float(compute_loss(model, batch, path, Objective(attention=attention), totals, LossSums()).detach())


def one_by_one(model: LanceModel, samples: list[Sample], totals: Counter[str], paths: list[Path]) -> float:
    return sum(loss_of(model, assemble([s], ANCHORS), path, totals) for s, path in zip(samples, paths, strict=True))


def joined(paths: list[Path]) -> Path:
    noise = [path.noise for path in paths if path.noise.numel()]
    return Path(torch.cat([torch.zeros(1), *(path.times[1:] for path in paths)]), torch.cat(noise))


@pytest.mark.parametrize("prediction", ["velocity", "data"])
@pytest.mark.parametrize(("round_to", "attention"), [(1, "fused"), (16, "fused"), (16, "plain"), (1, "flex"), (16, "flex")])
def test_a_batch_has_the_loss_of_its_samples(prediction: str, round_to: int, attention: Attention) -> None:
    model = tiny_model(prediction)
    batch = assemble(SAMPLES, ANCHORS, round_to)
    # A batch groups samples by shape: single paths must follow its order.
    order = sorted(range(len(SAMPLES)), key=lambda i: _group(i, round_to))
    samples = [SAMPLES[i] for i in order]
    generator = torch.Generator().manual_seed(3)
    paths = [draw_path(assemble([sample], ANCHORS), PathSampling(), generator) for sample in samples]
    wanted = one_by_one(model, samples, batch.counts, paths)
    assert abs(loss_of(model, batch, joined(paths), batch.counts, attention) - wanted) < 1e-5


def _group(index: int, round_to: int) -> int:
    shapes = [(row.understanding, row.generation) for row in assemble(SAMPLES, ANCHORS, round_to).rows]
    (row,) = assemble([SAMPLES[index]], ANCHORS, round_to).rows
    return shapes.index((row.understanding, row.generation))


@pytest.mark.parametrize("attention", ["fused", "plain", "flex"])
@pytest.mark.parametrize("task", ["t2i", "image_edit", "i2v", "video_edit"])
def test_views_of_a_target_are_as_good_as_samples(task: str, attention: Attention, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "SPARSE", 1.0)  # block by block also where it does not pay
    model = tiny_model()
    sample = tiny_sample(task, 5)
    seen_thrice = assemble([sample], ANCHORS, 16, views=3)
    path = draw_path(seen_thrice, PathSampling(), torch.Generator().manual_seed(1))
    source = seen_thrice.target.eq(0).sum() - 3 * sum(segment.clean_frames * 6 for segment in sample.segments)
    cells = (seen_thrice.target.numel() - int(source)) // 3
    single = []
    for view in range(3):
        own = slice(int(source) + view * cells, int(source) + (view + 1) * cells)
        noise = torch.cat([path.noise[: int(source)], path.noise[own]])
        single.append(Path(path.times[[0, view + 1]], noise))
    wanted = one_by_one(model, [sample] * 3, seen_thrice.counts, single)
    assert abs(loss_of(model, seen_thrice, path, seen_thrice.counts, attention) - wanted) < 1e-5
    assert bool(ragged(model, seen_thrice, path, attention).groups[0].blocks) == (attention == "plain")


Outcome = tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]


def outcome(model: LanceModel, batch: TrainingBatch, path: Path, attention: Attention) -> Outcome:
    """Hidden states of both streams and gradients of all weights, by name."""
    model.zero_grad()
    hidden = model(ragged(model, batch, path, attention))
    losses.loss_of(model, hidden, batch, path, Objective(), batch.counts, LossSums()).backward()  # type: ignore[no-untyped-call]
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {name: x.detach() for name, x in vars(hidden).items() if x is not None}, gradients


MIXED = {
    "packed": assemble(SAMPLES, ANCHORS),
    "padded": assemble(SAMPLES, ANCHORS, 16),
    "views": assemble(SAMPLES, ANCHORS, 16, views=3),
    "understanding": assemble([tiny_sample("understand", 1), tiny_sample("text", 2)], ANCHORS, 16),
}


@pytest.mark.parametrize("name", MIXED)
def test_a_batch_attended_at_once_has_the_states_and_gradients_of_its_rows(name: str) -> None:
    model, batch = tiny_model("data"), MIXED[name]
    path = draw_path(batch, PathSampling(), torch.Generator().manual_seed(0))
    for got, want in zip(outcome(model, batch, path, "flex"), outcome(model, batch, path, "fused"), strict=True):
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


def test_padding_takes_no_part() -> None:
    """Whatever the padding holds, nothing changes."""
    model = tiny_model()
    batch = assemble(SAMPLES[:1], ANCHORS, 64)
    path = draw_path(batch, PathSampling(), torch.Generator().manual_seed(0))
    before = loss_of(model, batch, path, batch.counts)
    real, _ = stream_sizes(SAMPLES[0].segments)
    assert real < batch.ids.numel()
    batch.ids[real:] = 7
    batch.positions[0][:, real:] = 999
    assert loss_of(model, batch, path, batch.counts) == before


def test_an_understanding_only_batch_has_no_generation_stream() -> None:
    batch = assemble([tiny_sample("understand", 1), tiny_sample("text", 2)], ANCHORS)
    assert batch.latents.numel() == 0
    assert batch.num_targets == 0
    path = draw_path(batch, PathSampling(), torch.Generator())
    assert loss_of(tiny_model(), batch, path, batch.counts) > 0


def test_questions_about_one_picture_are_as_good_as_asked_alone() -> None:
    model = tiny_model()
    pairs = (("What?", "a cat"), ("How many?", "two"), ("Is it red?", "no"))
    binder = Binder(tiny_tokenizer(), OWN_WORDING)
    picture = MediumFeatures(torch.randn(1, 2, 2, WIDTH, generator=torch.Generator().manual_seed(0)))
    together = bind_sample(binder, Words("understand", *pairs[0], more=pairs[1:]), [picture], None)
    alone = [bind_sample(binder, Words("understand", *pair), [picture], None) for pair in pairs]
    batch = assemble([together], ANCHORS, 16)
    none = Path(torch.zeros(1), torch.zeros(0, 0))
    assert batch.answer.numel() == sum(len(answer) + 1 for _, answer in pairs)
    assert batch.num_tokens < sum(assemble([sample], ANCHORS, 16).num_tokens for sample in alone)
    wanted = one_by_one(model, alone, batch.counts, [none] * 3)
    assert abs(loss_of(model, batch, none, batch.counts) - wanted) < 1e-5
