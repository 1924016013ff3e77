"""The table of `openlance info --train`: what a process needs to train a model, by what learns and by how many processes share it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import Any

from openlance.model.config import LanceConfig
from openlance.train.memory import MODES, Setting, TrainingMemory, answer_bytes, memory_of, weights_of
from openlance.train.parallel import ParallelRecipe

PARTS = ("weights", "masters", "state", "average", "gradients", "gathered")


@dataclass(frozen=True)
class Row:
    """One mode on a number of processes; more than one split the model."""

    mode: str
    learning: int
    """Parameters that learn."""
    ranks: int
    memory: TrainingMemory
    recomputed: TrainingMemory
    """With activation checkpointing."""

    def values(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        peaks = {"peak": self.memory.peak, "peak_with_checkpointing": self.recomputed.peak}
        activations = {"activations_with_checkpointing": self.recomputed.activations}
        return {"mode": self.mode, "learning": self.learning, "ranks": self.ranks, **asdict(self.memory), **activations, **peaks}


def rows_of(config: LanceConfig, tokens: int, ranks: Sequence[int] = (1, 2, 4, 8)) -> list[Row]:
    """All modes on all numbers of processes, in bfloat16 with AdamW and an average, `tokens` a pass."""
    rows = []
    for mode in MODES:
        weights = weights_of(config, mode)
        learning = sum(weight.numel() for weight in weights if weight.learns)
        for number in ranks:
            parallel = ParallelRecipe(shard=number > 1, reduce_every_pass=number > 1)
            plain = Setting(parallel=parallel, ranks=number, tokens=tokens)
            recomputed = replace(plain, parallel=replace(parallel, activation_checkpointing=True))
            rows.append(Row(mode.name, learning, number, memory_of(weights, config, plain), memory_of(weights, config, recomputed)))
    return rows


def show(config: LanceConfig, tokens: int) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(
        f"[bold]{config.name}[/]: GiB of one process, bfloat16 with AdamW and an average, {tokens} tokens a pass; "
        "several processes split the model and sum gradients after each pass",
        highlight=False,
    )
    if not config.vision:
        console.print("the encoders of data are not counted", highlight=False)
    for name, rows in groupby(rows_of(config, tokens), lambda row: f"{row.mode}: {row.learning / 1e6:,.1f} M parameters learn"):
        table = Table(box=None, pad_edge=False, title=name, title_justify="left")
        for title in ("ranks", *PARTS, "activations", "recomputed", "peak", "recomputed"):
            table.add_column(title, justify="right")
        for row in rows:
            memory, other = row.memory, row.recomputed
            cells = [*(getattr(memory, part) for part in PARTS), memory.activations, other.activations, memory.peak, other.peak]
            table.add_row(str(row.ranks), *(f"{cell / 2**30:.2f}" for cell in cells))
        console.print()
        console.print(table)
    console.print(f"an answer token needs {answer_bytes(config, 2) / 2**20:.2f} MiB more for its logits", highlight=False)
