"""The sums by which a folder of our own layout knows that its weights are those that were saved.

`checksums.sha256` is in the form of sha256sum, so `sha256sum -c checksums.sha256` checks a folder of any size by hand.
"""

import hashlib
from pathlib import Path

from openlance.errors import CheckpointError

CHECKSUMS = "checksums.sha256"
CHECKED_BYTES = 1 << 30
"""Weights up to this size are checked at every load: 40 MB take 0.03 s. Larger ones would be read from the disk twice."""


def write_checksums(folder: Path) -> None:
    """Write the sums of the weight files in `folder`."""
    lines = [f"{_digest(path)}  {path.name}\n" for path in sorted(folder.glob("*.safetensors"))]
    (folder / CHECKSUMS).write_text("".join(lines), encoding="utf-8")


def check_weights(folder: Path, limit: int = CHECKED_BYTES) -> None:
    """Compare the weight files of `folder` with its sums, if it has sums and the files are no larger than `limit` bytes together.

    Raises CheckpointError naming a file that has other content than when it was saved.
    """
    path = folder / CHECKSUMS
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8").splitlines()
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    files = [folder / name for name in sums if "/" not in name and (folder / name).is_file()]
    if sum(file.stat().st_size for file in files) > limit:
        return
    for file in files:
        if (found := _digest(file)) != sums[file.name]:
            raise CheckpointError(
                f"{file} is not what was saved (sha256 {found[:12]}..., {sums[file.name][:12]}... saved): copy or install it again "
                f"(or remove {CHECKSUMS} if you changed the weights yourself)"
            )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
