"""Results on disk, one line of JSON an item, so that an interrupted evaluation goes on where it was."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openlance.errors import LanceError
from openlance.eval.scores import Mark
from openlance.files import write_json

if TYPE_CHECKING:
    from openlance.pipeline import Lance


@dataclass(frozen=True)
class Record:
    """One judged item of one answerer. `media`: whether anything of it was pixels. `strip`: file of a kept failure, `label` its text."""

    answerer: str
    key: str
    category: str
    marks: tuple[Mark, ...]
    media: bool
    strip: str | None = None
    label: str | None = None

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> "Record":
        """Inverse of `asdict`."""
        return cls(**{**raw, "marks": tuple(Mark(**mark) for mark in raw["marks"])})


class RecordFile:
    """Records of one suite. A line cut off by a crash is dropped when the file is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: dict[tuple[str, str], Record] = {}
        if path.exists():
            data = path.read_bytes()
            whole = data[: data.rfind(b"\n") + 1]
            if len(whole) < len(data):
                with path.open("r+b") as file:
                    file.truncate(len(whole))
            self._keep(Record.from_dict(json.loads(line)) for line in whole.splitlines())

    def add(self, record: Record) -> None:
        """Append a record; it survives the end of this process however that comes."""
        with self.path.open("ab") as file:
            file.write((json.dumps(asdict(record)) + "\n").encode())
        self._keep([record])

    def _keep(self, records: Iterable[Record]) -> None:
        self.records |= {(record.answerer, record.key): record for record in records}


def fingerprint(lance: "Lance", parameters: dict[str, Any], seed: int) -> dict[str, Any]:
    """What results belong to: the model, its weights, parameters and seed."""
    return {"model": lance.config.name, "weights": weights_digest(lance), "parameters": parameters, "seed": seed}


def weights_digest(lance: "Lance") -> str:
    """16 hexadecimal digits of the configuration and of both ends of every tensor, the same whether weights that are stored in bfloat16
    are computed with in it or in float32."""
    import torch

    digest = hashlib.sha256(json.dumps(lance.config.to_dict(), sort_keys=True).encode())
    for name, tensor in lance.model.state_dict().items():
        flat = tensor.detach().flatten()
        ends = torch.cat([flat[:256], flat[-256:]]).float().cpu().contiguous()
        digest.update(name.encode() + ends.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def claim(folder: Path, mine: dict[str, Any]) -> None:
    """Make the folder the place of these results. Raises LanceError when it holds results of something else, or of nobody knows what."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "run.json"
    if not path.exists() and any((folder / "records").glob("*.jsonl")):
        raise LanceError(f"{folder} holds records without the {path.name} that says whose they are: choose another folder or remove it")
    if path.exists():
        theirs = json.loads(path.read_text())
        different = sorted(key for key in mine if theirs.get(key) != json.loads(json.dumps(mine[key])))
        if different:
            raise LanceError(f"{folder} holds results of another run ({', '.join(different)} differ): choose another folder or remove it")
    write_json(path, mine)
