"""What stage four changed, from the pairs of scores that tools/compare_words.py writes, as a table of the model card."""

import json
from pathlib import Path

from openlance.errors import LanceError
from openlance.eval.statistics import change_between

READERS = {"template_ocr": "the world's reader", "ocr": "PP-OCR, which it was not trained on", "world_judge": "the world's judge"}
KINDS = {"words": "unseen words", "others": "other prompts"}
Rows = list[tuple[str, ...]]
HEAD = ("prompts", "judged by", "measure", "before", "after", "change", "better / worse / all")


def read_rows(path: Path) -> Rows:
    """One row a measure under HEAD. Raises LanceError for a file that holds no pairs."""
    scores: dict[tuple[str, str], tuple[list[float], list[float]]] = {}
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            pair = json.loads(line)
            both = scores.setdefault((pair["kind"], pair["measure"]), ([], []))
            for found, value in zip(both, pair["scores"], strict=True):
                found.append(float(value))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LanceError(f"{path} holds no pairs of scores ({error!r}): write it by tools/compare_words.py --jsonl") from error
    if not scores:
        raise LanceError(f"{path} is empty: write it by tools/compare_words.py --jsonl")
    rows: Rows = []
    for (kind, measure), (before, after) in scores.items():
        judge, _, name = measure.partition(".")
        c = change_between(before, after)
        change = f"{c.mean:+.3f} [{c.low:+.3f}, {c.high:+.3f}]"
        counts = f"{c.better} / {c.worse} / {c.pairs}"
        rows.append((KINDS.get(kind, kind), READERS.get(judge, judge), name, f"{c.before:.3f}", f"{c.after:.3f}", change, counts))
    return rows
