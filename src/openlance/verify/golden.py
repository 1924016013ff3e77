"""A folder of recorded numbers: the model in it, its raw media, and its cases."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openlance.errors import CheckpointError
from openlance.media.clip import Clip
from openlance.model.lance import LanceModel
from openlance.sequence.bind import Binder
from openlance.sequence.template import Templates
from openlance.sequence.tokenizer import Tokenizer
from openlance.verify.check import Check, compare, quantity_of

RAW_FPS = 24.0
"""Frame rate of the raw videos in media.safetensors."""
ROUNDED_FREQUENCIES = "_bf16_inv_freq"
"""End of the name of cases recorded with rotary frequencies rounded to bfloat16; all others used float32."""
VISUAL = re.compile(r"<\|vision_start\|>(?:<\|video_pad\|>)*<\|vision_end\|>")


@dataclass(frozen=True)
class Wording:
    """The texts of one recorded sequence."""

    system: str
    prompt: str
    answer: str = ""


@dataclass
class Case:
    """One recorded case. Whatever is read or compared is marked, so that the rest can be listed."""

    name: str
    scalars: dict[str, Any]
    tensors: dict[str, Tensor]
    checks: list[Check] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)

    @classmethod
    def load(cls, folder: Path) -> Case:
        from safetensors.torch import load_file

        scalars = _json(folder / "case.json")
        path = folder / "tensors.safetensors"
        return cls(folder.name, scalars, load_file(path) if path.exists() else {}, seen={"case", "tensors", "texts"})

    @property
    def quirk(self) -> bool:
        return self.name.startswith("quirk_")

    def given(self, name: str, default: Any = None) -> Any:
        """An input of the case."""
        self.seen.add(name)
        return self.scalars.get(name, default)

    def tensor(self, name: str) -> Tensor:
        """An input tensor of the case."""
        self.seen.add(name)
        if name not in self.tensors:
            raise CheckpointError(f"case {self.name} has no tensor '{name}', without which it cannot be run")
        return self.tensors[name]

    def compare(self, name: str, ours: Any) -> None:
        """Check `ours` against the tensor or scalar `name`, if the case has it. Masks may be stored as packed bits."""
        if f"{name}_packbits" in self.tensors:
            self.seen.add(f"{name}_packbits")
            packed = torch.from_numpy(np.packbits(ours.cpu().numpy(), axis=1))
            self.expect(name, packed, self.tensors[f"{name}_packbits"])
        elif name in self.tensors:
            self.expect(name, ours, self.tensors[name])
        elif self.scalars.get(name) is not None:
            self.expect(name, ours, self.scalars[name])

    def expect(self, name: str, ours: Any, theirs: Any) -> None:
        """Check `ours` against numbers that are not an entry of the case by themselves."""
        self.seen.add(name)
        self.checks.append(compare(name, ours, theirs, self.quirk))

    def differs(self, name: str, note: str) -> None:
        """Record a difference that is intended."""
        self.seen.add(name)
        quantity = quantity_of(name)
        self.checks.append(Check(name, quantity.label, 0.0, quantity.tolerance, 1, "intended", note))

    def numbered(self, prefix: str) -> list[str]:
        """Names `prefix0`, `prefix1`, ... that the case has, in order."""
        found = [name for name in self.tensors if re.fullmatch(re.escape(prefix) + r"\d+", name)]
        return sorted(found, key=lambda name: int(name[len(prefix) :]))

    def numbers(self, prefix: str) -> list[int]:
        """The numbers of `numbered`."""
        return [int(name[len(prefix) :]) for name in self.numbered(prefix)]

    def rest(self) -> list[str]:
        """Everything of the case that was neither an input nor compared."""
        held = {name for name, value in self.scalars.items() if value is not None}
        return sorted({*held, *self.tensors} - self.seen)


@dataclass
class Golden:
    """A checkpoint folder with cases in it."""

    folder: Path
    device: str = "cpu"

    def cases(self, pattern: str = "*") -> Iterator[Path]:
        """Folders of the cases whose names match the shell pattern, sorted."""
        for path in sorted(self.folder.glob(pattern)):
            if (path / "case.json").is_file():
                yield path

    @cached_property
    def spec(self) -> dict[str, Any]:
        path = self.folder / "spec.json"
        return _json(path) if path.exists() else {}

    @cached_property
    def binder(self) -> Binder:
        """With no wording: every case brings its SYSTEM text."""
        return Binder(Tokenizer.load(self.folder), Templates({}))

    @cached_property
    def media(self) -> dict[str, Tensor]:
        from safetensors.torch import load_file

        path = self.folder / "media.safetensors"
        return load_file(path) if path.exists() else {}

    def clip(self, key: str) -> Clip:
        """Raw media as a clip."""
        if key not in self.media:
            raise CheckpointError(f"media.safetensors in {self.folder} has no '{key}' (it has {sorted(self.media)})")
        array = self.media[key].numpy()
        return Clip(array, RAW_FPS) if array.ndim == 4 else Clip.from_image(array)

    @cached_property
    def rounded(self) -> LanceModel:
        """The model in float32 with rotary frequencies rounded to bfloat16."""
        from openlance.weights.hub import resolve
        from openlance.weights.load import load_checkpoint

        with torch.inference_mode(False):  # training cases need gradients of the same weights
            return load_checkpoint(resolve(self.folder), dtype=torch.float32, device=self.device)

    @cached_property
    def plain(self) -> LanceModel:
        """The same weights with rotary frequencies in float32."""
        from openlance.model.rope import Rope

        config = self.rounded.config
        transformer = dataclasses.replace(config.transformer, rope_inv_freq_dtype="float32")
        model = copy.copy(self.rounded)
        model._modules = {**self.rounded._modules, "rope": Rope(transformer).to(self.device)}
        model.config = dataclasses.replace(config, transformer=transformer)
        return model

    def model(self, case: Case) -> LanceModel:
        """The model as the case was recorded with it."""
        return self.rounded if case.name.endswith(ROUNDED_FREQUENCIES) else self.plain

    def wording(self, values: dict[str, Any]) -> Wording:
        """Texts of a case or of one of its samples: out of the rendered text, or of token ids where the text was left out."""
        if "texts" in values:
            decode = self.binder.tokenizer.decode
            return Wording(**{name: decode(ids) for name, ids in values["texts"].items()})
        return parse_rendered(values["rendered_text"])


def parse_rendered(text: str) -> Wording:
    """SYSTEM, user and assistant texts of a rendered sequence, its visual blocks left out."""
    match = re.fullmatch(
        r"<\|im_start\|>system\n(.*?)<\|im_end\|>\n<\|im_start\|>user\n(.*)<\|im_end\|>\n<\|im_start\|>assistant\n(.*)", text, re.DOTALL
    )
    if match is None:
        raise CheckpointError(f"the rendered text of a case is not of the known form: {text[:60]!r}...")
    system, user, answer = match.groups()
    return Wording(system, VISUAL.sub("", user), VISUAL.sub("", answer).removesuffix("<|im_end|>"))


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON ({error}): copy it again") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} must hold a JSON object")
    return values
