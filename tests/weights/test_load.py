"""Loading: golden weights in the real modules, real buffers after construction without memory, errors that name tensors."""

import dataclasses
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from openlance.errors import CheckpointError
from openlance.model.precision import fast_dtype
from openlance.model.rope import Rope
from openlance.weights.empty import allocate
from openlance.weights.hub import resolve
from openlance.weights.load import UnreadCheckpoint, build_empty, build_model, load_checkpoint, load_pretrained, read_config
from tests.weights.conftest import edit_json, same_tensors

PREFIX = "language_model.model.layers.1."


def change(path, edit):
    """Rewrite a safetensors file after `edit` changed its dictionary."""
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)


@pytest.fixture(scope="module")
def golden_model(golden_dir):
    return load_checkpoint(resolve(golden_dir), dtype=torch.float32)


def test_golden_rows_land_where_the_fused_products_expect_them(golden_model, golden_dir):
    published = load_file(golden_dir / "model.safetensors")
    expert = golden_model.transformer.layers[1].generation
    names = [f"{PREFIX}self_attn.{part}_proj_moe_gen" for part in "qkv"]
    x = torch.randn(3, golden_model.config.transformer.hidden_size)
    separate = torch.cat([torch.nn.functional.linear(x, published[f"{name}.weight"], published[f"{name}.bias"]) for name in names], -1)
    assert torch.allclose(expert.qkv(x), separate, atol=1e-6)
    gate, up = expert.gate_up(x).chunk(2, -1)
    assert torch.allclose(gate, x @ published[f"{PREFIX}mlp_moe_gen.gate_proj.weight"].T, atol=1e-6)
    assert torch.allclose(up, x @ published[f"{PREFIX}mlp_moe_gen.up_proj.weight"].T, atol=1e-6)
    assert torch.equal(golden_model.head.weight, published["language_model.lm_head.weight"])


def test_golden_vision_and_autoencoder(golden_model, golden):
    case = golden("x2t_image")
    tokens = golden_model.vision([golden_model.vision.patchify(case.tensor("vit.frames_u8.0"))])[0]
    assert torch.allclose(tokens, case.tensor("vit.embeds"), atol=2e-4, rtol=0)
    case = golden("vae")
    latents = golden_model.autoencoder.encode(case.tensor("in_u8.1"))[0]
    assert torch.allclose(latents, case.tensor("mu_normalised_thwc.1"), atol=2e-4, rtol=0)


def test_model_is_ready_for_inference(golden_model):
    assert not golden_model.training
    assert not any(p.requires_grad for p in golden_model.parameters())
    assert {p.dtype for p in golden_model.parameters()} == {torch.float32}


def test_buffers_that_no_file_holds_are_real(model, own_folder):
    loaded = load_checkpoint(resolve(own_folder), dtype=torch.bfloat16)
    assert loaded.vision.tower is not None  # built when it is first asked for
    buffers = dict(loaded.named_buffers())
    assert {"rope.inv_freq", "vision.tower.rotary_pos_emb.inv_freq", "autoencoder.latents_std"} <= buffers.keys()
    for name, expected in model.named_buffers():
        assert torch.equal(buffers[name], expected), name
        assert buffers[name].dtype == expected.dtype
    assert torch.equal(loaded.rope.inv_freq, Rope(model.config.transformer).inv_freq)


def test_empty_construction_takes_no_memory_for_matrices(config):
    empty = build_empty(lambda: build_model(config))
    matrices = [p for p in empty.parameters() if p.ndim > 1 and p.shape[1:].numel() > 1]
    assert matrices
    assert all(p.is_meta for p in matrices)
    assert not any(buffer.is_meta for buffer in empty.buffers())


def test_a_checkpoint_may_lack_vision_and_autoencoder(golden_dir, tmp_path):
    for name in ("model.safetensors", "llm_config.json", "tokenizer.json"):
        shutil.copy(golden_dir / name, tmp_path)
    loaded = load_checkpoint(resolve(tmp_path))
    assert loaded.vision is None
    assert loaded.autoencoder is None
    assert loaded.dtype == fast_dtype("cpu")


@pytest.mark.parametrize("layout", ["own", "published"])
def test_processes_read_their_rows_and_no_others(model, own_folder, published_folder, layout):
    """Three of them, one after another into the same memory; a row of the file may be anywhere in a fused weight of ours."""
    checkpoint = UnreadCheckpoint(resolve(own_folder if layout == "own" else published_folder))
    allocate(checkpoint.model, "cpu", torch.float32)
    found = dict(checkpoint.model.named_parameters())
    for parameter in found.values():
        parameter.fill_(7.0)
    for index in range(3):

        def held(weight, index=index):
            size = -(-len(weight) // 3)
            return weight[index * size : (index + 1) * size], index * size

        checkpoint.read(held)
        for name, weight in model.named_parameters():
            rows, first = held(weight)
            stop = first + len(rows)
            assert torch.equal(found[name][:stop], weight[:stop]), name
            assert bool((found[name][stop:] == 7.0).all()), name


def test_a_part_that_the_model_has_lost_is_not_read(model, own_folder):
    checkpoint = UnreadCheckpoint(resolve(own_folder))
    vision, checkpoint.model.vision = checkpoint.model.vision, None
    assert torch.equal(checkpoint.load(torch.float32).head.weight, model.head.weight)
    assert all(parameter.is_meta for parameter in vision.parameters())


def test_the_fingerprint_is_that_of_the_weights(own_folder, published_folder):
    first = UnreadCheckpoint(resolve(own_folder)).fingerprint()
    assert UnreadCheckpoint(resolve(own_folder)).fingerprint() == first
    change(own_folder / "model.safetensors", lambda tensors: tensors["head.weight"][0, 3].add_(1))
    assert UnreadCheckpoint(resolve(own_folder)).fingerprint() != first
    assert len(UnreadCheckpoint(resolve(published_folder)).fingerprint()) == len(first)


def test_dtypes(model, own_folder):
    for dtype in (torch.float16, torch.bfloat16):
        loaded = load_checkpoint(resolve(own_folder), dtype=dtype)
        assert torch.equal(loaded.embedding.weight, model.embedding.weight.to(dtype))
        assert {p.dtype for p in loaded.parameters()} == {dtype}


def test_every_wrong_tensor_is_named_at_once(published_folder):
    def edit(tensors):
        tensors[f"{PREFIX}self_attn.k_projj.weight"] = tensors.pop(f"{PREFIX}self_attn.k_proj.weight")
        del tensors["vae2llm.bias"]
        tensors["surprise"] = torch.zeros(1)
        tensors["llm2vae.bias"] = torch.zeros(7)
        tensors["latent_pos_embed.pos_embed"] = torch.zeros(4, 4)

    change(published_folder / "Lance_3B" / "model.safetensors", edit)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(resolve(published_folder))
    message = str(caught.value)
    assert "2 missing:" in message
    assert f"{PREFIX}self_attn.k_proj.weight (did you mean {PREFIX}self_attn.k_projj.weight?)" in message
    assert "vae2llm.bias" in message
    assert "2 unexpected:" in message
    assert "surprise" in message
    assert "1 of the wrong shape: llm2vae.bias is [7] instead of [6]" in message
    assert "latent_pos_embed" not in message


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_every_tensor_with_nan_or_infinity_is_named(published_folder, value):
    def edit(tensors):
        tensors["vae2llm.bias"][3] = value
        tensors["language_model.lm_head.weight"][5, 5] = value
        tensors["language_model.lm_head.weight"][6, 5] = -value

    change(published_folder / "Lance_3B" / "model.safetensors", edit)
    with pytest.raises(CheckpointError, match="NaN or infinity in 2 tensors") as caught:
        load_checkpoint(resolve(published_folder))
    assert "vae2llm.bias" in str(caught.value)
    assert "lm_head.weight" in str(caught.value)


def test_large_but_finite_weights_are_no_error_except_in_float16(published_folder):
    path = published_folder / "Lance_3B" / "model.safetensors"
    change(path, lambda tensors: tensors["vae2llm.bias"].fill_(3e38))
    loaded = load_checkpoint(resolve(published_folder))
    assert bool((loaded.latent.input.bias > 2e38).all())
    with pytest.raises(CheckpointError, match=r"vae2llm\.bias.*try bfloat16"):
        load_checkpoint(resolve(published_folder), dtype=torch.float16)


def test_a_broken_autoencoder_file_is_named(published_folder):
    path = published_folder / "Wan2.2_VAE.pth"
    content = torch.load(path)
    content["decoder.head.2.bias"][0] = torch.nan
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"Wan2\.2_VAE\.pth has NaN .*decoder\.head\.2\.bias"):
        load_checkpoint(resolve(published_folder))


def test_configuration_that_does_not_fit_is_named(published_folder, own_folder):
    language = published_folder / "Lance_3B"
    edit_json(language / "llm_config.json", hidden_size=32)
    with pytest.raises(CheckpointError, match="of the wrong shape"):
        load_checkpoint(resolve(published_folder))
    (language / "llm_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"llm_config\.json cannot be read"):
        read_config(resolve(published_folder))
    (language / "llm_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"llm_config\.json lacks"):
        read_config(resolve(published_folder))
    (own_folder / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"config\.json must hold a JSON object"):
        read_config(resolve(own_folder))
    (own_folder / "config.json").write_text('{"transformer": {"hidden_sise": 3}}')
    with pytest.raises(CheckpointError, match="hidden_sise"):
        read_config(resolve(own_folder))


def test_load_pretrained(model, binder, own_folder, published_folder, tmp_path):
    loaded, found = load_pretrained(own_folder, dtype="float32", device="cpu")
    assert same_tensors(loaded, model)
    assert found.tokenizer.encode("two words") == binder.tokenizer.encode("two words")
    assert found.templates == binder.templates
    assert found.known_words is None
    assert load_pretrained(published_folder, device="cpu")[0].dtype == fast_dtype("cpu")
    other = tmp_path / "mine.json"
    dataclasses.replace(found.templates, systems={"t2i/image": "Paint."}).save(other)
    assert load_pretrained(own_folder, templates=other)[1].templates.systems == {"t2i/image": "Paint."}
    (published_folder / "templates.json").unlink()
    assert load_pretrained(published_folder)[1].templates.systems == {}
    with pytest.raises(CheckpointError, match=r"int8.*'bfloat16'"):
        load_pretrained(own_folder, dtype="int8")
    edit_json(own_folder / "config.json", transformer={**model.config.to_dict()["transformer"], "vocab_size": 600})
    with pytest.raises(CheckpointError, match="634 tokens do not fit a model of 600"):
        load_pretrained(own_folder)


@pytest.mark.gpu
def test_loading_to_a_gpu(model, own_folder):
    loaded, *_ = load_pretrained(own_folder, dtype="float32", device="cuda")
    assert {tensor.device.type for tensor in [*loaded.parameters(), *loaded.buffers()]} == {"cuda"}
    assert same_tensors(loaded.cpu(), model)
