"""Sources of training samples: anything with a length that gives the sample of an index."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Protocol

from openlance.data.features import Encoders, encode_records
from openlance.data.records import Record
from openlance.data.sample import ConditionDropout, Sample, bind_sample
from openlance.data.world import WorldData, record_of
from openlance.sequence.bind import Binder


class Source(Protocol):
    """Samples by index. The same (index, seed of rng) gives the same sample."""

    name: str

    def __len__(self) -> int:
        """How many samples there are now; a source may grow."""

    def sample(self, index: int, rng: Random) -> Sample:
        """The sample of an index; `rng` draws its wording and what it loses."""

    def contents(self) -> str:
        """Where the samples are and what was found there, for messages."""


class RecordSource:
    """Records encoded when they are drawn, one by one: for small data sets and for tests."""

    def __init__(self, name: str, records: Sequence[Record], encoders: Encoders, binder: Binder, dropout: ConditionDropout) -> None:
        self.name = name
        self.records = records
        self.encoders = encoders
        self.binder = binder
        self.dropout = dropout

    def __len__(self) -> int:
        return len(self.records)

    def sample(self, index: int, rng: Random) -> Sample:
        record = self.records[index]
        ((media, target),) = encode_records([record], self.encoders)
        return bind_sample(self.binder, self.dropout.speak(record.words, rng), media, target, self.dropout.draw(rng))

    def contents(self) -> str:
        return f"it has {len(self.records)} records"


class WorldSource:
    """Examples of the world, drawn and encoded when they are needed. The later turns of a story are left to the cache."""

    length = 1 << 22

    def __init__(self, name: str, data: WorldData, encoders: Encoders, binder: Binder, dropout: ConditionDropout) -> None:
        self.name = name
        self.data = data
        self.encoders = encoders
        self.binder = binder
        self.dropout = dropout

    def __len__(self) -> int:
        return self.length

    def sample(self, index: int, rng: Random) -> Sample:
        record = record_of(self.data.example(index).turns[0])
        ((media, target),) = encode_records([record], self.encoders)
        return bind_sample(self.binder, self.dropout.speak(record.words, rng), media, target, self.dropout.draw(rng))

    def contents(self) -> str:
        return f"{self.data.task} of the world, {self.length} samples"
