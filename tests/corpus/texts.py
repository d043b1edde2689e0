"""Small texts and tokenizers for the tests of datasets."""

import base64
import json
from functools import cache
from pathlib import Path

import pytest
from hypothesis import strategies as st

from plgolf.corpus.documents import Document, Reading
from plgolf.corpus.stdlib import stdlib_files
from plgolf.corpus.tokenizer_training import TokenizerRecipe, train_tokenizer
from plgolf.data.tokenizer import ByteTokenizer, Tokenizer, tokenizer_of

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60) | st.text("ab \n\t\u2581\0é\u3000ﬁ")
"""Any Unicode, and characters that tokenizers treat in a special way."""
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""How GPT-2 splits a text into words (https://github.com/openai/gpt-2, encoder.py)."""
END_OF_TEXT = "<|endoftext|>"


class Lines:
    """A console that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.live_lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def live(self, line: str) -> None:
        self.live_lines.append(line)


@pytest.fixture
def small_shards(monkeypatch):
    """Allows shards of a few tokens, so that little text fills many of them."""
    monkeypatch.setattr("plgolf.corpus.building.LEAST_SHARD_TOKENS", 1)


@cache
def some_texts() -> tuple[str, ...]:
    files = [file for file in stdlib_files() if file.name.startswith("email/")]
    found = (document for file in files for document in file.documents(Reading()))
    return tuple(document.text for document in found if isinstance(document, Document))


@cache
def tokenizer(kind: str) -> Tokenizer:
    if kind == "byte":
        return ByteTokenizer()
    if kind == "tokenizers":
        return tokenizer_of(byte_level_json())
    if kind == "tiktoken":
        return tokenizer_of(json.dumps({"tokenizer_type": "tiktoken", **tiktoken_settings()}).encode())
    preset, model_type = kind.split()
    recipe = TokenizerRecipe(preset=preset, model_type=model_type, vocab_size=512)
    return train_tokenizer(some_texts(), recipe)


@cache
def byte_level_json() -> bytes:
    """A tokenizer.json like GPT-2's, of 512 ids, the last one the end of a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=511, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(some_texts(), trainer)
    made.add_special_tokens([END_OF_TEXT])
    return made.to_str().encode()


def tiktoken_settings() -> dict[str, object]:
    """The same vocabulary as tiktoken has it."""
    from tokenizers import Tokenizer

    vocabulary = Tokenizer.from_buffer(byte_level_json()).get_vocab(with_added_tokens=False)
    # GPT-2's table of bytes and printable characters.
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(range(256)) - set(printable))
    table = {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}
    lines = []
    for text, index in sorted(vocabulary.items(), key=lambda item: item[1]):
        piece = bytes(table[character] for character in text)
        lines.append(f"{base64.b64encode(piece).decode()} {index}")
    return {
        "pattern": GPT2_PATTERN,
        "special_tokens": {END_OF_TEXT: len(vocabulary)},
        "ranks": "\n".join(lines),
    }


def write_jsonl(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path
