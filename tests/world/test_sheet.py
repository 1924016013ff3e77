"""Sheets and the tokenizer."""

import re
from pathlib import Path

import numpy as np
import pytest

from openlance.errors import LanceError
from openlance.world.draw import Setting
from openlance.world.sheet import contact_sheet
from openlance.world.tasks import make_example
from openlance.world.vocabulary import SPECIAL_TOKENS, build_tokenizer

EXAMPLES = [make_example(t, c, 3, Setting(64, 64, num_frames=5)) for t, c in (("t2i", "colour"), ("t2v", "free"), ("understand", "what"))]
TOKENIZER = Path(__file__).resolve().parents[2] / "src" / "openlance" / "nano" / "tokenizer"


def test_a_sheet_shows_the_target_pixels() -> None:
    sheet = np.asarray(contact_sheet(EXAMPLES[:1], columns=1))
    assert EXAMPLES[0].target is not None
    picture = EXAMPLES[0].target.pixels()[0]
    assert any(np.array_equal(sheet[y : y + 64, 8:72], picture) for y in range(sheet.shape[0] - 64))
    with pytest.raises(LanceError, match="needs examples"):
        contact_sheet([])


def test_the_tokenizer_of_the_package_reads_anything_and_spells_capitals() -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(TOKENIZER / "tokenizer.json"))
    assert 1000 <= tokenizer.get_vocab_size() <= 2000
    for text in ('the word "CRANE" in red', "Größe 漢字 😀\n", "(12,40),(55,78)"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert tokenizer.encode("CRANE").tokens == list("CRANE")
    assert tokenizer.encode("a striped purple circle").tokens == ["a", "Ġstriped", "Ġpurple", "Ġcircle"]
    assert [tokenizer.token_to_id(t) for t in SPECIAL_TOKENS] == list(range(tokenizer.get_vocab_size() - 14, tokenizer.get_vocab_size()))
    merges = (TOKENIZER / "merges.txt").read_text().splitlines()[1:]
    assert not [m for m in merges if re.search(r"[A-Z].*[A-Z]", m.replace(" ", ""))]


def test_building_a_tokenizer_is_deterministic(tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert build_tokenizer(tmp_path / name, vocab_size=400, per_category=1) == 400
    for file in ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    with pytest.raises(LanceError, match="vocab_size=100"):
        build_tokenizer(tmp_path / "c", vocab_size=100)
