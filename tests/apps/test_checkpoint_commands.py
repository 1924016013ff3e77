"""info, convert, templates, verify."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from openlance.apps.anatomy import needs_of, parts_of
from openlance.errors import CheckpointError
from openlance.model.config import LanceConfig, MediaConfig
from openlance.sequence.known_words import KnownWords
from openlance.sequence.template import OWN_WORDING, Templates
from openlance.weights.hub import HUB_NAME, resolve
from openlance.weights.load import load_checkpoint, load_pretrained, read_config
from openlance.weights.templates import constants_of, fetched_templates, read_templates, templates_of
from tests.apps.conftest import Cli

T2I = "Describe the {} by detailing the color, quantity and text of the objects:"
T2V = "Describe the {} by detailing the color and motion/camera movements of the objects:"
EDIT = "Describe the input {}, then explain how the instruction should alter or modify the {}. Generate a new {}."
SUBJECT = "Describe the input image, then incorporate the text. Generate a new {} while preserving the identity."
KEYS = {
    "t2i/image": T2I, "t2v/video": T2V, "i2v/video": T2V,
    "edit/image": EDIT, "edit/video": EDIT, "subject/image": SUBJECT, "subject/video": SUBJECT,
}  # fmt: skip


def filled(key: str) -> str:
    return KEYS[key].replace("{}", key.split("/")[1])


def test_info_counts_what_the_model_has(cli: Cli, checkpoint: Path, golden_dir: Path) -> None:
    model = load_checkpoint(resolve(checkpoint))
    expected = sum(parameter.numel() for parameter in model.parameters())
    for folder in (checkpoint, golden_dir):
        (report,) = cli("info", folder, "--dtype", "bfloat16", "--json").results
        assert report["parameters"] == expected
        assert {"understanding expert", "generation expert", "video autoencoder"} <= {part["name"] for part in report["parts"]}
        assert all(task["with_weights"] > report["weights_bytes"] == 2 * expected for task in report["tasks"])
    assert "other" not in {part.name for part in parts_of(resolve(golden_dir), read_config(resolve(golden_dir)))}
    shown = cli("info", checkpoint)
    assert shown.code == 0
    assert f"{expected:,}" in shown.out


def test_needs_grow_with_what_is_made() -> None:
    config = LanceConfig(vision={"depth": 32}, autoencoder={"dec_dim": 256})
    small = LanceConfig(vision={"depth": 32}, autoencoder={"dec_dim": 256}, media=MediaConfig(image_size=(256, 256), num_frames=5))
    large, little = ({need.task: need for need in needs_of(each)} for each in (config, small))
    assert large["t2i"].tokens == 256 + 48 * 48
    assert all(large[name].total > little[name].total for name in ("t2i", "t2v", "image_edit", "video_edit"))
    assert large["text"].total == little["text"].total
    assert large["image_edit"].pixels > large["t2i"].pixels  # its source is encoded
    assert large["understand"].process > large["t2i"].process  # and looked at
    assert large["t2i"].in_all(5) == 5 + large["t2i"].process + large["t2i"].total
    text_only = {need.task for need in needs_of(LanceConfig())}
    assert text_only == {"text"}


def test_convert_there_and_back(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    known = KnownWords(frozenset({"red"}), {"colours": ("red",)}, (3, 5))
    given = Path(shutil.copytree(checkpoint, tmp_path / "given"))
    known.save(given / "words.json")
    assert cli("convert", given, "published", "--to", "published").out.strip() == "published"
    assert cli("convert", "published", "back", "--quiet").code == 0
    before, after = load_file(checkpoint / "model.safetensors"), load_file(tmp_path / "back" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(before[name].equal(after[name]) for name in before)
    assert Templates.load(tmp_path / "back" / "templates.json") == OWN_WORDING
    assert KnownWords.load(tmp_path / "back" / "words.json") == known
    assert cli("convert", checkpoint, "half", "--dtype", "bfloat16", "--json").results[0]["dtype"] == "bfloat16"
    refused = cli("convert", checkpoint, "half")
    assert (refused.code, "not empty" in refused.err) == (2, True)
    assert cli("convert", checkpoint, checkpoint).code == 2


def nested() -> str:
    tasks: dict[str, dict[str, str]] = {}
    for key in KEYS:
        task, kind = key.split("/")
        tasks.setdefault(task, {})[kind] = filled(key)
    return f"PROMPTS = {tasks!r}"


def flat() -> str:
    return "\n".join(f"SYSTEM_{key.upper().replace('/', '_')} = (\n  {filled(key)[:30]!r}\n  {filled(key)[30:]!r} + '')" for key in KEYS)


def members() -> str:
    lines = ["class Prompts:", "'The prompts of everything, long enough to be one.'", f"t2i = {T2I!r}", f"t2v: str = {T2V!r}"]
    return "\n    ".join([*lines, f"image_edit = {EDIT!r}", f"idip = {SUBJECT!r}"])


def branches() -> str:
    pairs = {"t2i": T2I, "t2v": T2V, "edit": EDIT}
    choices = "".join(f"    if task == {name!r}:\n        return {text!r}\n" for name, text in pairs.items())
    return f"def prompt(task):\n{choices}    return {SUBJECT!r}"


def meaningless() -> str:
    return f"A = {T2I!r}\nB = {T2V!r}\nC = {EDIT!r}\nD = {SUBJECT!r}\nPATH = 'some/other/constant/of/the/module'"


SOURCES = {"nested": nested(), "flat": flat(), "class": members(), "function": branches(), "plain": meaningless()}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES.keys())
def test_templates_are_found_however_they_are_named(source: str) -> None:
    reading = templates_of(constants_of(source), {}, "source")
    assert {key: reading.templates.systems[key] for key in KEYS} == {key: filled(key) for key in KEYS}
    assert reading.templates.systems["understand/text"] == OWN_WORDING.systems["understand/text"]
    assert reading.names["text/text"] is None


def test_templates_command(cli: Cli, tmp_path: Path) -> None:
    marker = tmp_path / "was_run"
    lines = [f"open({str(marker)!r}, 'w')", f"t2i_a = {T2I!r}", f"t2i_b = {T2I + '!'!r}", f"t2v = {T2V!r}", f"edit = {EDIT!r}"]
    lines += [f"subject = {SUBJECT!r}", "strange = 'Say plainly what you are shown, please.'"]
    (tmp_path / "prompts.py").write_text("\n".join(lines))
    unclear = cli("templates", "--from", "prompts.py")
    assert unclear.code == 2
    assert "t2i/image: several: t2i_a, t2i_b" in unclear.err
    assert "--set KEY=NAME" in unclear.err
    assert not (tmp_path / "templates.json").exists()
    chosen = ("--set", "t2i/image=t2i_b", "--set", "understand/text=strange")
    done = cli("templates", "--from", "prompts.py", *chosen)
    assert done.code == 0, done.err
    systems = json.loads((tmp_path / "templates.json").read_text())["systems"]
    assert systems["t2i/image"] == filled("t2i/image") + "!"
    assert systems["understand/text"] == "Say plainly what you are shown, please."
    assert "t2i_b" in done.out
    assert not marker.exists()
    assert cli("templates", "--from", "prompts.py", *chosen).code == 2
    assert cli("templates", "--from", "prompts.py", "--set", "t2i/image=nothing", "--overwrite").code == 2
    assert cli("templates", "--from", "prompts.py", "--set", "fly/image=t2i_b", "--overwrite").code == 2


@pytest.mark.parametrize("content", [b"def (", b"\xff\xfe\x00", b"x = 1", b"x = " + b"(" * 5000])
def test_templates_of_something_else_are_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "prompts.py"
    path.write_bytes(content)
    with pytest.raises(CheckpointError):
        read_templates(path)


def test_fetched_templates_use_the_cache_and_explain_themselves_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "\n".join(f"{key.replace('/', '_')} = {filled(key)!r}" for key in KEYS)
    answers = {"trees": json.dumps({"tree": [{"path": "a/prompts.py", "type": "blob"}]}).encode(), "raw": source.encode()}

    def offline(address: str) -> bytes:
        raise OSError("no route to host")

    monkeypatch.setattr("openlance.weights.templates._get", offline)
    with pytest.raises(CheckpointError, match=r"no route to host.*templates --from"):
        fetched_templates(tmp_path)
    monkeypatch.setattr("openlance.weights.templates._get", lambda address: answers["trees" if "trees" in address else "raw"])
    path = fetched_templates(tmp_path)
    monkeypatch.setattr("openlance.weights.templates._get", offline)
    assert fetched_templates(tmp_path) == path
    assert Templates.load(path).systems["edit/video"] == filled("edit/video")


def test_the_hub_name_brings_the_fetched_wording(golden_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "templates.json"
    Templates({"t2i/image": "Paint."}).save(path)
    monkeypatch.setattr("openlance.weights.load.resolve", lambda name, variant: resolve(golden_dir))
    monkeypatch.setattr("openlance.weights.load.fetched_templates", lambda: path)
    assert load_pretrained(HUB_NAME, device="cpu")[1].templates.systems == {"t2i/image": "Paint."}
    assert load_pretrained(golden_dir, device="cpu")[1].templates.systems == {}


def test_verify_command(cli: Cli, golden_dir: Path) -> None:
    run = cli("verify", golden_dir, "--case", "frame_sampler")
    assert run.code == 0
    assert "frame indices" in run.out
    assert "all cases pass" in run.out
    (report,) = cli("verify", golden_dir, "--case", "frame_sampler", "--json").results
    assert report["passed"] is True
    assert {check["status"] for case in report["cases"] for check in case["checks"]} == {"pass", "intended"}


def test_verify_command_fails_on_a_difference(cli: Cli, golden_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "golden"
    (folder / "frame_sampler").mkdir(parents=True)
    for path in golden_dir.iterdir():
        if path.is_file():
            (folder / path.name).symlink_to(path)
    values = json.loads((golden_dir / "frame_sampler" / "case.json").read_text())
    values["rows"][3]["indices"][-1] += 1
    (folder / "frame_sampler" / "case.json").write_text(json.dumps(values))
    run = cli("verify", folder)
    assert run.code == 1
    assert "1 of 1 cases failed" in run.out


def test_info_says_what_training_needs(cli: Cli) -> None:
    (report,) = cli("info", "bytedance-research/Lance", "--train", "--tokens", "1000", "--json").results
    assert (report["name"], report["tokens"], len(report["rows"])) == ("lance-3b", 1000, 12)
    whole, split = report["rows"][0], report["rows"][3]
    assert (whole["mode"], whole["ranks"], split["ranks"]) == ("full", 1, 8)
    assert whole["weights"] == 2 * whole["learning"]
    assert split["peak_with_checkpointing"] < split["peak"] < whole["peak"]
    shown = cli("info", "nano", "--train")
    assert "LoRA on the generation expert" in " ".join(shown.out.split())
    assert cli("info", "nano", "--train", "--tokens", "0").code == 2
