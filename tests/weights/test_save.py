"""Our layout and the published one: what is written is read back, whole or not at all."""

import json

import pytest
import torch
from safetensors.torch import load_file

from openlance.errors import CheckpointError
from openlance.model.config import LanceConfig
from openlance.weights import save
from openlance.weights.export import export_pretrained, published_tensors
from openlance.weights.hub import resolve
from openlance.weights.load import build_model, load_checkpoint
from openlance.weights.names import transformer_slots
from openlance.weights.save import save_pretrained
from tests.weights.conftest import AUTOENCODER, SIZES, VISION, same_tensors


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_our_layout_round_trip(model, own_folder):
    assert files(own_folder) == ["checksums.sha256", "config.json", "model.safetensors", "templates.json", "tokenizer.json"]
    loaded = load_checkpoint(resolve(own_folder), dtype=torch.float32)
    assert same_tensors(loaded, model)
    assert json.dumps(loaded.config.to_dict()) == json.dumps(model.config.to_dict())


@pytest.mark.parametrize("size", [1, 3000, 20_000])
def test_shards_round_trip(model, binder, tmp_path, size):
    save_pretrained(model, binder, tmp_path / "own", max_shard_size=size)
    shards = [path for path in (tmp_path / "own").iterdir() if path.suffix == ".safetensors"]
    assert len(shards) > 1
    tensors = [load_file(path) for path in shards]
    assert all(len(shard) == 1 or sum(t.nbytes for t in shard.values()) <= size for shard in tensors)
    index = json.loads((tmp_path / "own" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in model.state_dict().values())
    assert same_tensors(load_checkpoint(resolve(tmp_path / "own"), dtype=torch.float32), model)


def test_dtype_on_disk(model, binder, tmp_path):
    save_pretrained(model, binder, tmp_path / "own", dtype=torch.bfloat16)
    assert {t.dtype for t in load_file(tmp_path / "own" / "model.safetensors").values()} == {torch.bfloat16}


def test_published_layout_round_trip(model, published_folder):
    files = resolve(published_folder)
    assert files.layout == "published"
    loaded = load_checkpoint(files, dtype=torch.float32)
    assert same_tensors(loaded, model)
    assert loaded.config.transformer == model.config.transformer
    assert torch.equal(loaded.autoencoder.latents_mean, model.autoencoder.latents_mean)


def test_golden_files_come_back_as_they_were(golden_dir, binder, tmp_path):
    loaded = load_checkpoint(resolve(golden_dir), dtype=torch.float32)
    export_pretrained(loaded, binder, tmp_path / "published", variant="video")
    pairs = [
        (load_file(golden_dir / "model.safetensors"), load_file(tmp_path / "published/Lance_3B_Video/model.safetensors")),
        (load_file(golden_dir / "vit.safetensors"), load_file(tmp_path / "published/Qwen2.5-VL-ViT/vit.safetensors")),
        (load_file(golden_dir / "vae.safetensors"), torch.load(tmp_path / "published/Wan2.2_VAE.pth", weights_only=True)),
    ]
    for original, back in pairs:
        assert original.keys() == back.keys()
        assert all(torch.equal(original[name], back[name]) for name in original)
    assert resolve(tmp_path / "published").variant == "video"


def test_published_tensors_are_views(model):
    tensors = published_tensors(model, transformer_slots(model.config.transformer))
    queries = tensors["language_model.model.layers.0.self_attn.q_proj.weight"]
    fused = model.transformer.layers[0].understanding.qkv.weight
    assert queries.untyped_storage().data_ptr() == fused.untyped_storage().data_ptr()


def test_what_the_published_layout_cannot_say_is_refused(binder, tmp_path):
    light = {"class": "light", "latent_channels": 6, "widths": [4, 4, 4], "encoder_blocks": [1, 1, 1], "decoder_blocks": [1, 1, 1]}
    cases = [({"autoencoder": light}, "class 'light'"), ({"prediction": "data"}, "predicts 'data'"), ({"vision": {}}, "no vision encoder")]
    for changes, words in cases:
        config = LanceConfig(**{"transformer": SIZES, "vision": VISION, "autoencoder": AUTOENCODER, "latent_channels": 6, **changes})
        with pytest.raises(CheckpointError, match=words):
            export_pretrained(build_model(config), binder, tmp_path / "published")
    assert list(tmp_path.iterdir()) == []


def test_our_layout_holds_the_light_autoencoder(binder, tmp_path):
    light = {"class": "light", "latent_channels": 6, "widths": [4, 4, 4], "encoder_blocks": [1, 1, 1], "decoder_blocks": [1, 1, 1]}
    light |= {"latents_mean": (0.123456789,) * 6, "latents_std": (2.0,) * 6}
    model = build_model(LanceConfig(transformer=SIZES, autoencoder=light, latent_channels=6))
    save_pretrained(model, binder, tmp_path / "own")
    loaded = load_checkpoint(resolve(tmp_path / "own"), dtype=torch.float32)
    assert same_tensors(loaded, model)
    assert torch.equal(loaded.autoencoder.latents_mean, torch.full((6,), 0.123456789))


def test_an_occupied_folder_is_left_alone(model, binder, own_folder):
    before = (own_folder / "model.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match="not empty"):
        save_pretrained(model, binder, own_folder, max_shard_size=1000)
    assert (own_folder / "model.safetensors").read_bytes() == before
    with pytest.raises(CheckpointError, match="is a file"):
        save_pretrained(model, binder, own_folder / "config.json", overwrite=True)


def test_overwriting_drops_stale_shards_and_keeps_other_files(model, binder, tmp_path):
    folder = tmp_path / "own"
    save_pretrained(model, binder, folder, max_shard_size=3000)
    (folder / "notes.txt").write_text("mine")
    save_pretrained(model, binder, folder, overwrite=True)
    assert files(folder) == ["checksums.sha256", "config.json", "model.safetensors", "notes.txt", "templates.json", "tokenizer.json"]
    assert files(tmp_path) == ["own"]


def test_failure_leaves_the_old_checkpoint(model, binder, own_folder, monkeypatch):
    before = {path.name: path.read_bytes() for path in own_folder.iterdir()}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(save, "write_tensors", full)
    with pytest.raises(CheckpointError, match=r"own \(No space left on device\)"):
        save_pretrained(model, binder, own_folder, overwrite=True)
    assert {path.name: path.read_bytes() for path in own_folder.iterdir()} == before
    assert files(own_folder.parent) == ["own"]


def test_old_folder_comes_back_if_the_new_one_cannot_take_its_place(model, binder, own_folder, monkeypatch):
    before = {path.name: path.read_bytes() for path in own_folder.iterdir()}
    replace, calls = save.os.replace, []

    def second_fails(source, target):
        calls.append(source)
        if len(calls) == 2:
            raise OSError(16, "Device or resource busy")
        replace(source, target)

    monkeypatch.setattr(save, "write_shards", lambda *_: None)
    monkeypatch.setattr(save.os, "replace", second_fails)
    with pytest.raises(CheckpointError, match="busy"):
        save_pretrained(model, binder, own_folder, overwrite=True)
    assert len(calls) == 3
    assert {path.name: path.read_bytes() for path in own_folder.iterdir()} == before
