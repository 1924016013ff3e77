"""Names to files: every layout, every way to point at it, and errors that say what to pass."""

import shutil

import pytest

from openlance.errors import CheckpointError
from openlance.weights import hub
from openlance.weights.hub import HUB_NAME, resolve


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("{}")
    return root


@pytest.fixture
def published(tmp_path):
    return touch(
        tmp_path,
        *(f"{part}/{name}" for part in ("Lance_3B", "Lance_3B_Video") for name in ("llm_config.json", "model.safetensors", "vocab.json")),
        "Qwen2.5-VL-ViT/vit.safetensors",
        "Qwen2.5-VL-ViT/config.json",
        "Wan2.2_VAE.pth",
    )


def test_published(published):
    assert resolve(published) == resolve(str(published), variant="image")
    files = resolve(published, variant="video")
    assert files.layout == "published"
    assert files.weights == published / "Lance_3B_Video" / "model.safetensors"
    assert files.tokenizer == published / "Lance_3B_Video"
    assert files.vision_weights == published / "Qwen2.5-VL-ViT" / "vit.safetensors"
    assert files.autoencoder_weights == published / "Wan2.2_VAE.pth"
    assert files.templates is None
    touch(published, "templates.json")
    assert resolve(published).templates == published / "templates.json"
    assert resolve(published).words is None
    touch(published, "words.json")
    assert resolve(published).words == published / "words.json"


def test_published_inner_folder_or_file(published):
    assert resolve(published / "Lance_3B_Video") == resolve(published, variant="video")
    assert resolve(published / "Lance_3B" / "model.safetensors") == resolve(published)


def test_published_with_one_variant(published):
    shutil.rmtree(published / "Lance_3B")
    assert resolve(published).variant == "video"
    with pytest.raises(CheckpointError, match=r"lacks Lance_3B/ .*variant='video'"):
        resolve(published, variant="image")


def test_published_without_its_neighbours(published):
    (published / "Wan2.2_VAE.pth").unlink()
    (published / "Qwen2.5-VL-ViT" / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"lacks Qwen2.5-VL-ViT/config.json, Wan2.2_VAE.pth: download"):
        resolve(published / "Lance_3B")


def test_own(tmp_path):
    touch(tmp_path, "config.json", "model.safetensors.index.json", "tokenizer.json", "templates.json")
    files = resolve(tmp_path)
    assert (files.layout, files.weights.name, files.templates) == ("own", "model.safetensors.index.json", tmp_path / "templates.json")
    assert files.words is None
    touch(tmp_path, "words.json")
    assert resolve(tmp_path).words == tmp_path / "words.json"
    (tmp_path / "model.safetensors.index.json").unlink()
    with pytest.raises(CheckpointError, match=r"lacks model\.safetensors"):
        resolve(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"lacks tokenizer\.json"):
        resolve(tmp_path)


def test_flat(golden_dir):
    files = resolve(golden_dir)
    assert files.layout == "flat"
    assert files.autoencoder_weights == golden_dir / "vae.safetensors"


def test_nano_is_the_embedded_folder(monkeypatch, tmp_path):
    package = tmp_path / "openlance"
    touch(package, "nano/config.json", "nano/model.safetensors", "nano/tokenizer.json", "weights/hub.py")
    monkeypatch.setattr(hub, "__file__", str(package / "weights" / "hub.py"))
    assert resolve("nano").weights == package / "nano" / "model.safetensors"


def test_names_that_lead_nowhere(tmp_path):
    with pytest.raises(CheckpointError, match=r"no folder '.*absent'.*'nano', or 'bytedance-research/Lance'"):
        resolve(tmp_path / "absent")
    with pytest.raises(CheckpointError, match=r"is no checkpoint.*config\.json.*llm_config\.json.*Lance_3B"):
        resolve(tmp_path)
    with pytest.raises(CheckpointError, match="variant 'audio' is not known"):
        resolve(tmp_path, variant="audio")


def test_hub_name_downloads_only_what_is_needed(published, monkeypatch):
    asked = []

    def snapshot_download(name, allow_patterns):
        asked.append((name, sorted(allow_patterns)))
        return str(published)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert resolve(HUB_NAME, variant="video").weights == published / "Lance_3B_Video" / "model.safetensors"
    assert asked == [(HUB_NAME, ["Lance_3B_Video/*", "Qwen2.5-VL-ViT/*", "Wan2.2_VAE.pth"])]


def test_hub_without_a_network_says_what_to_pass(monkeypatch):
    def snapshot_download(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    wanted = r"cannot download .*no route.*pass DIR, a folder with Lance_3B/, Qwen2.5-VL-ViT/ and Wan2.2_VAE.pth"
    with pytest.raises(CheckpointError, match=wanted):
        resolve(HUB_NAME)
