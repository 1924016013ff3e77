"""Trains the small tokenizer of the embedded model on the world's language, in the layout of Qwen2 tokenizers.

`build_tokenizer(folder)` writes vocab.json, merges.txt, tokenizer.json and tokenizer_config.json: every byte, merges of the world's words,
no merge over two capitals (words in capitals are spelt letter by letter), then the special tokens.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openlance.errors import LanceError
from openlance.files import write_text
from openlance.world.draw import Setting
from openlance.world.splits import SPLITS
from openlance.world.tasks import CATEGORIES, make_example

SPECIAL_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>",
    "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CAPITALS = r"[A-Z](?=[A-Z])|(?<=[A-Z])[A-Z]"


def language_sample(per_category: int) -> Iterator[str]:
    """Texts and answers of every category, both rings, seen and held-out phrasings (a tokenizer may know words a model has not seen)."""
    for ring in (1, 2):
        for split in (SPLITS[0], "unseen phrasings"):
            setting = Setting(256, 256, ring=ring, split=split)
            for task, categories in CATEGORIES.items():
                for category in categories:
                    for index in range(per_category):
                        for turn in make_example(task, category, index, setting).turns:
                            yield turn.text
                            yield turn.answer or ""


def build_tokenizer(folder: Path, system_texts: tuple[str, ...] = (), vocab_size: int = 1200, per_category: int = 60) -> int:
    """Writes the tokenizer's four files into `folder` and returns the number of tokens, specials included.

    `system_texts` are further sentences to learn from (templates). The same arguments give the same files. Raises LanceError when
    `vocab_size` cannot hold 256 bytes and the special tokens.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    if vocab_size < 256 + len(SPECIAL_TOKENS):
        raise LanceError(f"vocab_size={vocab_size} is under {256 + len(SPECIAL_TOKENS)}: bytes and special tokens alone need that many")
    tokenizer = Tokenizer(models.BPE())
    qwen = pre_tokenizers.Split(Regex(PATTERN), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [qwen, pre_tokenizers.Split(Regex(CAPITALS), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL_TOKENS),
        min_frequency=3,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((*language_sample(per_category), *system_texts * 20), trainer)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([qwen, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    _write(folder, json.loads(tokenizer.to_str()))
    return int(tokenizer.get_vocab_size())


def _write(folder: Path, tokenizer: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    merges = [" ".join(m) if isinstance(m, list) else m for m in tokenizer["model"]["merges"]]
    added = {str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in tokenizer["added_tokens"]}
    config = {
        "add_prefix_space": False,
        "added_tokens_decoder": added,
        "additional_special_tokens": list(SPECIAL_TOKENS[1:]),
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 131072,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    files = {
        "vocab.json": json.dumps(tokenizer["model"]["vocab"], ensure_ascii=False),
        "merges.txt": "#version: 0.2\n" + "\n".join(merges) + "\n",
        "tokenizer.json": json.dumps(tokenizer, ensure_ascii=False, indent=1),
        "tokenizer_config.json": json.dumps(config, indent=1),
    }
    for name, text in files.items():
        write_text(folder / name, text + "\n" * (not text.endswith("\n")))
