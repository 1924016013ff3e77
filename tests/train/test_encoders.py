"""Pre-stages: exact resume, typed recipes, honest labels, an optimiser that learns."""

import json
import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from openlance.errors import CheckpointError, LanceError
from openlance.model.vae import build_autoencoder
from openlance.model.vision import VisionEncoder
from openlance.train.attributes import ATTRIBUTES, SceneBucket, describe, draw_scenes, letter_boxes
from openlance.train.encoders import main, read_recipe, train_encoder
from openlance.train.muon import MasterOptimizer, OptimizerRecipe, orthogonalise
from openlance.train.reconstruction import CropBucket, draw_batch, psnr, to_pixels
from openlance.world.palette import COLOURS
from openlance.world.render import render, render_clip
from openlance.world.sample import SceneOptions, sample_scene
from openlance.world.scene import Event, Motion, Object, Scene

RECIPES = Path(__file__).resolve().parents[2] / "recipes" / "nano"

AUTOENCODER = """
stage: autoencoder
output: {output}
steps: {steps}
workers: 0
evaluate_every: 1000
evaluation_images: 1
evaluation_clips: 1
model: {{latent_channels: 8, widths: [16, 16, 32], encoder_blocks: [1, 1, 1], decoder_blocks: [1, 1, 1]}}
images: [{{share: 1.0, batch: 4, crops: 2}}]
clips: [{{share: 1.0, batch: 1, frames: 5}}]
optimizer: {{smallest_matrix: 16, warmup: 2, decay: 1.0e-9}}
"""

VISION = """
stage: vision
output: {output}
steps: {steps}
workers: 0
evaluate_every: 1000
evaluation_scenes: 4
model: {{depth: 1, hidden_size: 32, intermediate_size: 32, num_heads: 2, out_hidden_size: 32}}
images: [{{share: 1.0, batch: 4, canvas: [64, 64]}}]
clips: [{{share: 1.0, batch: 1, canvas: [64, 64], frames: 5}}]
"""


def run(folder: Path, text: str, steps: int, name: str = "run") -> dict[str, float]:
    recipe = folder / f"{name}-{steps}.yaml"
    recipe.write_text(text.format(output=folder / name, steps=steps))
    return train_encoder(read_recipe(recipe))


@pytest.mark.parametrize("text", [AUTOENCODER, VISION], ids=["autoencoder", "vision"])
def test_a_run_cut_in_two_ends_with_the_same_weights(tmp_path: Path, text: str) -> None:
    run(tmp_path, text, 4, "whole")
    run(tmp_path, text, 2, "cut")
    run(tmp_path, text, 4, "cut")
    whole, cut = (torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("whole", "cut"))
    assert whole["step"] == cut["step"] == 4
    for part in ("masters", "averages", "momenta"):
        assert all(torch.equal(a, b) for a, b in zip(whole["optimizer"][part], cut["optimizer"][part], strict=True)), part
    weights = [load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "cut")]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_the_exported_autoencoder_normalises_its_latents(tmp_path: Path) -> None:
    figures = run(tmp_path, AUTOENCODER, 2)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    model = build_autoencoder(config)
    missing = model.load_state_dict({k: v.float() for k, v in load_file(tmp_path / "run" / "weights.safetensors").items()})
    assert not missing.missing_keys
    pixels = torch.from_numpy(draw_batch(random.Random(5), CropBucket(1.0, 60, (128, 128), (128, 128)), 0.35))
    latents = model.encode(to_pixels(pixels))
    assert latents.mean().abs() < 0.3
    assert 0.7 < latents.std() < 1.3
    assert {"loss", "images", "clips", "words", "words_noisy"} <= figures.keys()
    assert (tmp_path / "run" / "sheet.png").stat().st_size > 1000


def test_a_grown_decoder_starts_as_the_old_one_and_leaves_the_encoder_alone(tmp_path: Path) -> None:
    run(tmp_path, AUTOENCODER, 2, "first")
    exported = json.loads((tmp_path / "first" / "config.json").read_text())
    exported["latents_mean"] = [1 / (3 + k) for k in range(len(exported["latents_mean"]))]  # more digits than bfloat16 has
    (tmp_path / "first" / "config.json").write_text(json.dumps(exported))
    grown = (
        AUTOENCODER.replace("decoder_blocks: [1, 1, 1]", "decoder_blocks: [2, 3, 1]")
        + f"start_from: {tmp_path / 'first'}\nfreeze_encoder: true\n"
    )
    frozen = "optimizer: {{smallest_matrix: 16, muon: 0.0, adamw: 0.0}}"
    run(tmp_path, grown.replace("optimizer: {{smallest_matrix: 16, warmup: 2, decay: 1.0e-9}}", frozen), 1, "still")
    run(tmp_path, grown, 2, "second")
    models = {}
    for name in ("first", "still", "second"):
        models[name] = build_autoencoder(json.loads((tmp_path / name / "config.json").read_text()))
        models[name].load_state_dict({k: v.float() for k, v in load_file(tmp_path / name / "weights.safetensors").items()})
    pixels = to_pixels(torch.from_numpy(draw_batch(random.Random(6), CropBucket(1.0, 2, frames=5), 0.35)))
    latents = {name: model.encode(pixels) for name, model in models.items()}
    assert torch.equal(latents["first"], latents["second"])
    assert json.loads((tmp_path / "second" / "config.json").read_text())["latents_mean"] == exported["latents_mean"]
    torch.testing.assert_close(models["still"].decode(latents["first"]), models["first"].decode(latents["first"]), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(models["second"].decode(latents["first"]), models["first"].decode(latents["first"]), atol=1e-3)
    smaller = (
        AUTOENCODER.replace("decoder_blocks: [1, 1, 1]", "decoder_blocks: [1, 0, 1]")
        + f"start_from: {tmp_path / 'first'}\nfreeze_encoder: true\n"
    )
    with pytest.raises(LanceError, match="decoder blocks"):
        run(tmp_path, smaller, 1, "third")


def test_the_exported_vision_encoder_loads(tmp_path: Path) -> None:
    run(tmp_path, VISION, 1)
    model = VisionEncoder(json.loads((tmp_path / "run" / "config.json").read_text()))
    model.load_state_dict(load_file(tmp_path / "run" / "weights.safetensors"))
    assert model.out_features == 32


def test_a_vision_encoder_goes_on_from_an_exported_one(tmp_path: Path) -> None:
    run(tmp_path, VISION, 1, "first")
    more = VISION + f"start_from: {tmp_path / 'first'}\n"
    still = "optimizer: {{muon: 0.0, adamw: 0.0}}\n"
    run(tmp_path, more + still, 1, "still")
    first, after = (load_file(tmp_path / name / "weights.safetensors") for name in ("first", "still"))
    assert all(torch.equal(first[name], after[name]) for name in first)
    with pytest.raises(LanceError, match="has other sizes than the recipe's model"):
        run(tmp_path, more.replace("intermediate_size: ", "intermediate_size: 1"), 1, "wider")


def test_a_grown_vision_encoder_starts_as_the_old_one(tmp_path: Path) -> None:
    run(tmp_path, VISION, 1, "first")
    deeper = VISION.replace("depth: 1", "depth: 3") + f"start_from: {tmp_path / 'first'}\n"
    run(tmp_path, deeper + "optimizer: {{muon: 0.0, adamw: 0.0}}\n", 1, "still")
    run(tmp_path, deeper, 2, "second")
    tokens = {}
    for name in ("first", "still", "second"):
        encoder = VisionEncoder(json.loads((tmp_path / name / "config.json").read_text()))
        encoder.load_state_dict({k: v.float() for k, v in load_file(tmp_path / name / "weights.safetensors").items()})
        patches, grid = encoder.patchify(torch.arange(32 * 32 * 3, dtype=torch.uint8).view(1, 32, 32, 3))
        (tokens[name],) = encoder([(patches.float(), grid)])
    assert torch.equal(tokens["first"], tokens["still"])
    assert not torch.allclose(tokens["first"], tokens["second"], atol=1e-4)
    with pytest.raises(LanceError, match="or more blocks"):
        run(tmp_path, VISION + f"start_from: {tmp_path / 'second'}\n", 1, "shallower")


def test_a_stopped_run_saves_after_its_step(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(VISION.format(output=tmp_path / "run", steps=5))
    train_encoder(read_recipe(recipe), stopped=[15])
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"] == 1
    assert not (tmp_path / "run" / "weights.safetensors").exists()


def test_training_reduces_the_loss(tmp_path: Path) -> None:
    first = run(tmp_path, AUTOENCODER, 2, "short")
    last = run(tmp_path, AUTOENCODER, 40, "long")
    assert last["images"] > first["images"] + 2


def test_recipes_of_the_repository_are_typed_and_overridable() -> None:
    read = set()
    for path in RECIPES.glob("*.yaml"):
        if "stage" in yaml.safe_load(path.read_text()):
            assert read_recipe(path, ["--steps", "7"]).steps == 7
            read.add(path.stem)
    assert {"autoencoder", "decoder-more", "corrections", "vision", "vision-words"} <= read


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("words: 1.5", "words 1.5"),
        ("stage: autoencoder\nwords: -1", "words -1"),
        ("widht: 3", "widht"),
        ("steps: many", "steps"),
        ("stage: nothing", "stage"),
        ("model: {depth: 2.5}", "depth"),
    ],
)
def test_bad_recipes_are_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(f"stage: vision\noutput: x\nsteps: 1\n{line}\n")
    with pytest.raises(LanceError, match=message):
        read_recipe(path)


def test_a_checkpoint_of_other_sizes_or_a_broken_one_is_refused(tmp_path: Path) -> None:
    run(tmp_path, VISION, 1)
    with pytest.raises(CheckpointError, match="other sizes"):
        run(tmp_path, VISION.replace("out_hidden_size: 32", "out_hidden_size: 48"), 2)
    (tmp_path / "run" / "checkpoint.pt").write_bytes(b"half")
    with pytest.raises(CheckpointError, match="remove it"):
        run(tmp_path, VISION, 2)


def test_export_while_running(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, VISION, 1)
    (tmp_path / "run" / "weights.safetensors").unlink()
    main(["--export", str(tmp_path / "run-1.yaml")])
    assert "step 1" in capsys.readouterr().out
    assert (tmp_path / "run" / "weights.safetensors").exists()


@pytest.mark.parametrize("shape", [(32, 64), (64, 32), (48, 4, 3, 3)])
def test_orthogonalise_is_near_the_polar_factor(shape: tuple[int, ...]) -> None:
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, _, right = torch.linalg.svd(gradient.reshape(shape[0], -1), full_matrices=False)
    made = orthogonalise(gradient).reshape(shape[0], -1)
    assert torch.linalg.svdvals(made).max() < 1.3
    alignment = (made * (left @ right)).sum() / made.norm() / (left @ right).norm()
    assert alignment > 0.95


def test_rates_rise_stay_and_fall() -> None:
    optimizer = MasterOptimizer(torch.nn.Linear(64, 64), OptimizerRecipe(warmup=10, decay=0.5), steps=100)
    factors = [optimizer.factor(step) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[30] == 1.0
    assert factors[75] == pytest.approx(0.5)
    assert factors[99] == pytest.approx(0.02)


def test_psnr_of_known_errors() -> None:
    zeros = torch.zeros(2, 3, 1, 4, 4)
    assert psnr(zeros + 0.2, zeros).tolist() == pytest.approx([20.0, 20.0], abs=1e-3)
    assert psnr(zeros + 5, zeros + 1)[0] > 90, "predictions are clamped"


def test_crops_have_the_asked_size_and_repeat_with_the_seed() -> None:
    bucket = CropBucket(1.0, 3, (96, 160), (64, 80), frames=5, crops=2)
    batch = draw_batch(random.Random(1), bucket, 0.35)
    assert batch.shape == (3, 5, 64, 80, 3)
    assert np.array_equal(batch, draw_batch(random.Random(1), bucket, 0.35))


def label(scene: Scene, frames: int = 1) -> dict[str, np.ndarray]:
    labels, offsets = describe(scene, frames, (scene.height, scene.width), (2, 16))
    named = {name: np.array(classes)[labels[..., i]] for i, (name, classes) in enumerate(ATTRIBUTES.items())}
    return {**named, "offsets": offsets}


def test_labels_lie_on_the_pixels_of_their_object() -> None:
    rng = random.Random(3)
    for _ in range(20):
        scene = sample_scene(rng, 128, 128, SceneOptions(textures=0.0, objects=(1, 3)))
        pixels, found = render(scene, 128, 128), label(scene)
        for o in scene.objects:
            if o.kind not in ("circle", "square"):
                continue
            y, x = int(o.y * 128), int(o.x * 128)
            assert np.abs(pixels[y, x].astype(int) - COLOURS[o.colour]).max() < 12
            assert found["kind"][0, y // 16, x // 16] == o.kind
            assert found["colour"][0, y // 16, x // 16] == o.colour
            assert found["alike"][0, y // 16, x // 16] == str(sum(p.kind == o.kind for p in scene.objects))
            dy, dx = found["offsets"][0, y // 16, x // 16]
            assert (y // 16 + 0.5 + dy) * 16 == pytest.approx(o.y * 128, abs=0.01)
            assert (x // 16 + 0.5 + dx) * 16 == pytest.approx(o.x * 128, abs=0.01)


def test_letter_boxes_hold_exactly_the_ink_of_the_word() -> None:
    rng = random.Random(4)
    for _ in range(20):
        scene = sample_scene(rng, 128, 128, SceneOptions(words=1.0, objects=(0, 0), background="black"))
        assert scene.word is not None
        ink = (render(scene, 128, 128).astype(int) - 20).max(-1) > 40
        boxes = letter_boxes(scene.word, 128, 128)
        assert len(boxes) == len(scene.word.text)
        rows, columns = np.nonzero(ink)
        assert columns.min() == pytest.approx(boxes[0][0], abs=1.5)
        assert columns.max() + 1 == pytest.approx(boxes[-1][2], abs=1.5)
        assert rows.min() == pytest.approx(boxes[0][1], abs=1.5)
        assert rows.max() + 1 == pytest.approx(boxes[0][3], abs=1.5)
        for left, right in pairwise(boxes):
            gap = ink[:, round(left[2]) : max(round(left[2]) + 1, round(right[0]))]
            assert gap.mean() < 0.2


@pytest.mark.parametrize(
    ("motion", "event", "expected"),
    [
        (Motion("left", 0.4), None, "left"),
        (Motion("down", 0.4), None, "down"),
        (Motion("grow"), None, "grow"),
        (Motion("spin"), None, "spin"),
        (Motion(), None, "still"),
        (Motion(), Event("appear", 5 / 16), "on"),
        (Motion(), Event("recolour", 5 / 16, "green"), "recolour"),
    ],
)
def test_changes_are_what_the_frames_show(motion: Motion, event: Event | None, expected: str) -> None:
    scene = Scene(128, 128, "white", (Object("star", "red", "solid", "small", 0.5, 0.5, 0.4, motion, event),))
    change = label(scene, 17)["change"]
    clip = render_clip(scene, 128, 128, 17).astype(int)
    moved = [bool(np.abs(clip[2 * t] - clip[2 * t + 1]).max() > 30) for t in range(8)]
    said = [set(np.unique(change[t])) - {"none", "still"} != set() for t in range(8)]
    assert said == moved
    assert expected in change


def test_drawn_scenes_fit_together() -> None:
    batch = draw_scenes(random.Random(0), SceneBucket(1.0, 2, (64, 96), frames=5), (2, 16), 0.4)
    n, frames, height, width, _ = batch["pixels"].shape
    assert (n, frames) == (2, 5)
    assert batch["labels"].shape == (2, 3, height // 16, width // 16, len(ATTRIBUTES))
    assert (batch["labels"][..., -1] > 0).all(), "every token has a background"


def test_figures_have_curves(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run(tmp_path, VISION.replace("evaluate_every: 1000", "evaluate_every: 1"), 2)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) == set(lines[0]) - {"step"}
    for name in events.Tags()["scalars"]:
        assert [event.step for event in events.Scalars(name)] == [line["step"] for line in lines]
        assert [event.value for event in events.Scalars(name)] == pytest.approx(
            [line[name] for line in lines], rel=1e-5, abs=1e-5, nan_ok=True
        ), name
