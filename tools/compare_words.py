"""Whether one model writes better than another: the same held-out prompts and noise for both, read by two readers.

    python tools/compare_words.py BEFORE AFTER                       # folders of models, or nano; 480 words, 192 other prompts
    python tools/compare_words.py BEFORE AFTER --words 96 --others 0 --jsonl pairs.jsonl

The model card takes the file that `--jsonl` writes (`python -m openlance.nano.card --pairs`).

`template_ocr` is the world's own reader, `ocr` is PP-OCR (extra `rl`), which shares nothing with it. The words are unseen in training. Of
each measure: both means, the mean of the paired differences with its 95 % interval (bootstrap over prompts), and how many pictures got
better and worse.
"""

import argparse
import json
from pathlib import Path

import torch

from openlance.engine.engine import Engine
from openlance.engine.request import ImageSampling
from openlance.eval.records import write_text
from openlance.eval.statistics import change_between
from openlance.pipeline import Lance
from openlance.rl.prompts import Prompt, PromptSource
from openlance.rl.rewards import Reward, find_reward
from openlance.rl.rollout import request_of

FIRST = 50_100_000
"""Index of the first prompt: none that a recipe or its evaluations use."""
BATCH = 16
OTHERS = {"single": 1.0, "two": 1.0, "count": 1.0, "colour": 1.0, "position": 1.0, "attribute": 1.0, "dense": 1.0}
Pairs = dict[str, list[float]]


def scores_of(lance: Lance, prompts: list[Prompt], rewards: dict[str, Reward]) -> Pairs:
    """Measures of one picture a prompt, `reward.measure` each, in the order of the prompts; the seed is the place."""
    engine, found = Engine(lance.model, lance.binder), Pairs()
    for start in range(0, len(prompts), BATCH):
        part = prompts[start : start + BATCH]
        results = engine.run([request_of(prompt, ImageSampling(), seed=start + i) for i, prompt in enumerate(part)])
        clips = [result.clip for result in results if result.clip is not None]
        for name, reward in rewards.items():
            for prompt, score in zip(part, reward(clips, part), strict=True):
                if score is None or score.failed is not None:
                    raise SystemExit(f"{name} cannot judge '{prompt.text}': {score.failed if score else 'nothing to judge'}")
                for measure, value in {"value": score.value, **score.measures}.items():
                    found.setdefault(f"{name}.{measure}", []).append(value)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs=2, metavar="MODEL")
    parser.add_argument("--words", type=int, default=480)
    parser.add_argument("--others", type=int, default=192)
    parser.add_argument("--jsonl", type=Path, help="every pair of scores, in place of what the file held")
    args = parser.parse_args()
    both = [Lance.from_pretrained(Path(name) if Path(name).exists() else name) for name in args.models]
    kinds = {
        "words": (PromptSource(world={"word": 1.0}, split="unseen words", first=FIRST), args.words, ("template_ocr", "ocr")),
        "others": (PromptSource(world=OTHERS, split="test", first=FIRST), args.others, ("world_judge",)),
    }
    lines = []
    for kind, (source, count, names) in kinds.items():
        prompts = [source.prompt(index) for index in range(count)]
        rewards = {name: find_reward(name) for name in names}
        before, after = (scores_of(lance, prompts, rewards) for lance in both)
        for measure, first in before.items():
            c = change_between(first, after[measure])
            interval = f"{c.mean:+.3f} ({c.low:+.3f} to {c.high:+.3f})"
            counts = f"better {c.better}, worse {c.worse} of {c.pairs}"
            print(f"{kind:7} {measure:20} {c.before:.3f} -> {c.after:.3f}  {interval}  {counts}", flush=True)
            for prompt, *scores in zip(prompts, first, after[measure], strict=True):
                lines.append(json.dumps({"kind": kind, "prompt": prompt.text, "measure": measure, "scores": scores}) + "\n")
    if args.jsonl:
        write_text(args.jsonl, "".join(lines))
    return 0


if __name__ == "__main__":
    with torch.inference_mode():
        raise SystemExit(main())
