"""Small texts and tokenizers for the tests of datasets."""

import json
from functools import cache
from pathlib import Path

import pytest
from hypothesis import strategies as st

from plgolf.corpus.documents import Document, Reading
from plgolf.corpus.stdlib import stdlib_files
from plgolf.corpus.tokenizer_training import TokenizerRecipe, train_tokenizer
from plgolf.data.tokenizer import ByteTokenizer, Tokenizer

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60) | st.text("ab \n\t\u2581\0é\u3000ﬁ")
"""Any Unicode, and characters that tokenizers treat in a special way."""


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
    preset, model_type = kind.split()
    recipe = TokenizerRecipe(preset=preset, model_type=model_type, vocab_size=512)
    return train_tokenizer(some_texts(), recipe)


def write_jsonl(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path
