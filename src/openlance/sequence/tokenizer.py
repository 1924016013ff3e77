"""Text to token ids and back: the Qwen2 byte-level BPE of a checkpoint, with special tokens never read out of text."""

import json
from functools import cached_property
from pathlib import Path
from typing import Any

from openlance.errors import CheckpointError

QWEN2_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPECIAL_TOKENS = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|video_pad|>")


class Tokenizer:
    """Byte-level BPE. `encode` treats every character as text, `encode_template` also reads special tokens."""

    def __init__(self, description: dict[str, Any]) -> None:
        """`description`: the content of a tokenizer.json."""
        from tokenizers import Tokenizer as Backend

        self.description = description
        self.special = {token["content"]: int(token["id"]) for token in description["added_tokens"]}
        missing = [token for token in SPECIAL_TOKENS if token not in self.special]
        if missing:
            raise CheckpointError(f"the tokenizer has no {missing}: these special tokens frame every request")
        self._full = Backend.from_str(json.dumps(description))
        self._plain = Backend.from_str(json.dumps({**description, "added_tokens": []}))

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """Read tokenizer.json, or vocab.json + merges.txt + tokenizer_config.json, of a checkpoint folder."""
        whole = folder / "tokenizer.json"
        if whole.exists():
            return cls(json.loads(whole.read_text(encoding="utf-8")))
        for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
            if not (folder / name).exists():
                raise CheckpointError(
                    f"no tokenizer in {folder}: it needs tokenizer.json, or vocab.json, merges.txt and tokenizer_config.json"
                )
        vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
        lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
        merges = [line.split(" ") for line in lines if line and not line.startswith("#version")]
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        added = [{"id": int(i), **token} for i, token in config["added_tokens_decoder"].items()]
        return cls(describe(vocab, merges, added))

    def save(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_text(json.dumps(self.description, ensure_ascii=False) + "\n", encoding="utf-8")

    def __len__(self) -> int:
        """Number of tokens that mean something; a model's vocabulary may be padded beyond it."""
        return int(self._full.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str) -> tuple[int, ...]:
        """Token ids of plain text; a special token's name inside it is ordinary characters."""
        return tuple(self._plain.encode(text, add_special_tokens=False).ids)

    def encode_template(self, text: str) -> tuple[int, ...]:
        """Token ids of text that we wrote ourselves, special tokens included."""
        return tuple(self._full.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: list[int] | tuple[int, ...], skip_special_tokens: bool = False) -> str:
        return str(self._full.decode(list(ids), skip_special_tokens=skip_special_tokens))

    def stream(self) -> "TextStream":
        """Turns ids that arrive one by one into whole characters."""
        return TextStream(self)

    @cached_property
    def end_of_turn(self) -> int:
        return self.special["<|im_end|>"]

    @cached_property
    def frame(self) -> tuple[int, int, int]:
        """(start, pad, end) of every medium, image or video, vision or latent."""
        return self.special["<|vision_start|>"], self.special["<|video_pad|>"], self.special["<|vision_end|>"]


class TextStream:
    """Incremental decoding: a piece is given out once its last character is complete."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._open: list[int] = []

    def push(self, token: int) -> str:
        """The text that `token` completes; empty while a multi-byte character is open (at most four bytes are)."""
        self._open.append(token)
        text = self._tokenizer.decode(self._open, skip_special_tokens=True)
        if text.endswith("\ufffd") and len(self._open) < 4:
            return ""
        self._open.clear()
        return text

    def finish(self) -> str:
        """Whatever is still held back."""
        text = self._tokenizer.decode(self._open, skip_special_tokens=True)
        self._open.clear()
        return text


def describe(vocab: dict[str, int], merges: list[list[str]], added: list[dict[str, Any]]) -> dict[str, Any]:
    """tokenizer.json content of a Qwen2 tokenizer from its vocabulary, merges and added tokens."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": QWEN2_SPLIT}, "behavior": "Isolated", "invert": False},
                byte_level,
            ],
        },
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocab,
            "merges": merges,
        },
    }
