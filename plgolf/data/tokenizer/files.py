"""Tokenizers in files."""

import json
import re
from pathlib import Path

from plgolf.data.tokenizer.base import Tokenizer
from plgolf.data.tokenizer.bytewise import ByteTokenizer
from plgolf.data.tokenizer.sentencepiece import SentencePieceTokenizer
from plgolf.errors import UserError
from plgolf.files import read_regular

FILE_NAMES = (SentencePieceTokenizer.file_name, ByteTokenizer.file_name)
"""Names of a tokenizer's file beside a dataset or an artifact."""
MAX_FILE_BYTES = 2**24
"""Largest size of a tokenizer's file. One of 65,536 pieces, the most that shards can hold, has some 4 MB."""


def load_tokenizer(path: Path) -> Tokenizer:
    """Loads a tokenizer.

    Args:
        path: a SentencePiece ``.model``; a ``.json`` of plgolf, or a ``tokenizer.json`` of Hugging Face with
            byte-level BPE; a ``.tiktoken`` file with its ``.json`` beside it; or the name of an encoding of
            ``tiktoken``, such as ``gpt2``.

    Raises:
        UserError: the file is missing or malformed, or its package is not installed.
    """
    is_ranks = path.suffix == ".tiktoken" and path.is_file()
    is_name = not path.exists() and re.fullmatch(r"[a-z0-9_]+", str(path))
    try:
        if is_ranks or is_name:
            # An extra, and packed with the code of a run only where the run has imported it.
            from plgolf.data.tokenizer.tiktoken_bpe import TiktokenTokenizer  # noqa: PLC0415

            if is_name:
                return TiktokenTokenizer.named(str(path))
            return TiktokenTokenizer.from_ranks_file(path, max_bytes=MAX_FILE_BYTES)
        if not path.is_file():
            raise UserError("no tokenizer there")
        content = read_regular(path, max_bytes=MAX_FILE_BYTES)
        return _from_json(content) if path.suffix == ".json" else _from_model(content)
    except UserError as error:
        raise UserError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from error


def tokenizer_of(content: bytes) -> Tokenizer:
    """Makes a tokenizer from the contents of a file whose name is unknown.

    Raises:
        UserError: the contents are malformed, or the tokenizer's package is not installed.
    """
    # A SentencePiece model never starts with a brace: it would be a field that the format does not have.
    return _from_json(content) if content.startswith(b"{") else _from_model(content)


def _from_model(content: bytes) -> Tokenizer:
    tokenizer = SentencePieceTokenizer(content)
    if b"\xee\x80\x84" not in content:  # The last operator of CaseOps.
        return tokenizer
    from plgolf.data.tokenizer.cased import with_case_ops  # noqa: PLC0415 (packed only where it is used)

    return with_case_ops(tokenizer)


def _from_json(content: bytes) -> Tokenizer:
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError("must be JSON") from error
    if isinstance(parsed, dict) and "model" in parsed:
        from plgolf.data.tokenizer.hugging_face import from_parsed  # noqa: PLC0415 (an extra)

        return from_parsed(content, parsed)
    if isinstance(parsed, dict) and parsed.get("tokenizer_type") == "tiktoken":
        from plgolf.data.tokenizer.tiktoken_bpe import TiktokenTokenizer  # noqa: PLC0415

        return TiktokenTokenizer.from_dict(parsed)
    tokenizer = ByteTokenizer()
    if parsed != json.loads(tokenizer.to_bytes()):
        raise UserError(
            "must be a tokenizer.json of Hugging Face, or plgolf's file of a tiktoken vocabulary or of the "
            "260-id byte tokenizer"
        )
    return tokenizer
