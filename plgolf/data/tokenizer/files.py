"""Tokenizers in files."""

import json
from pathlib import Path

from plgolf.data.tokenizer.base import Tokenizer
from plgolf.data.tokenizer.bytewise import ByteTokenizer
from plgolf.data.tokenizer.sentencepiece import SentencePieceTokenizer
from plgolf.errors import UserError
from plgolf.regular_files import read_regular

FILE_NAMES = (SentencePieceTokenizer.file_name, ByteTokenizer.file_name)
"""What a tokenizer's file is called beside what it belongs to."""
MAX_FILE_BYTES = 2**24
"""Bound on a tokenizer's file. One of 65,536 pieces, the most that shards can hold, has some 1.5 MB."""


def load_tokenizer(path: Path) -> Tokenizer:
    """Loads a tokenizer's file.

    Args:
        path: a SentencePiece ``.model``, or the ``.json`` of the byte tokenizer.

    Returns:
        The tokenizer.

    Raises:
        UserError: the file is missing or is no tokenizer.
    """
    if not path.is_file():
        raise UserError(f"{path}: no tokenizer there")
    content = read_regular(path, max_bytes=MAX_FILE_BYTES)
    try:
        return _byte_tokenizer(content) if path.suffix == ".json" else SentencePieceTokenizer(content)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def tokenizer_of(content: bytes) -> Tokenizer:
    """Makes a tokenizer of the contents of a file without a name.

    Raises:
        UserError: they are of no tokenizer.
    """
    # No SentencePiece model begins so: a brace would be a field that it does not have.
    return _byte_tokenizer(content) if content.startswith(b"{") else SentencePieceTokenizer(content)


def _byte_tokenizer(content: bytes) -> Tokenizer:
    tokenizer = ByteTokenizer()
    try:
        same = json.loads(content) == json.loads(tokenizer.to_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError("is no JSON") from error
    if not same:
        raise UserError("is not the description of the 260-id byte tokenizer")
    return tokenizer
