"""Text that every machine already has: the sources of the running Python's standard library."""

import hashlib
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from plgolf.data.tokenizer import SPACE

_LEFT_OUT = frozenset(
    # Not in every distribution, and one generated file of 0.7 MB that would swamp either split.
    {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test", "pydoc_data"}
)
_VAL_FRACTION = 1 / 24


def stdlib_documents(root: Path | None = None) -> Iterator[tuple[str, str]]:
    r"""Yields the standard library's modules, all but tests and generated documentation.

    A document is normalised to what a lossless tokenizer can give back: newlines become ``\n``, and
    blank space before the first character goes; everything else stays, indentation included. A file that
    is not UTF-8, is empty or holds U+2581 or NUL (see ``train_lossless_bpe``) is left out.

    Args:
        root: folder to read; by default where this Python keeps its library.

    Yields:
        Name relative to ``root`` and text, sorted by name.
    """
    root = root or Path(sysconfig.get_path("stdlib"))
    names = sorted(
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if not _LEFT_OUT.intersection(path.relative_to(root).parts)
    )
    for name in names:
        try:
            text = (root / name).read_bytes().decode("utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        text = text.replace("\r\n", "\n").replace("\r", "\n").lstrip()
        if text and SPACE not in text and "\0" not in text:
            yield name, text


def document_hash(name: str) -> int:
    """Returns 64 bits that depend on a document's name alone: the same on every machine."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def is_validation(name: str) -> bool:
    """Says on which side of the split a document is, by the hash of its name: it never moves."""
    return document_hash(name) < _VAL_FRACTION * 2**64
