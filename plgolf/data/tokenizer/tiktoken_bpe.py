"""Byte-level BPE through the ``tiktoken`` package: GPT-2 and others (https://github.com/openai/tiktoken)."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from plgolf.config import config_from_dict
from plgolf.data.tokenizer.base import ByteLevelTokenizer, Ids
from plgolf.errors import UserError, extra
from plgolf.files import read_regular

_END_OF_TEXT = "<|endoftext|>"
_MAX_IDS = 2**20
_MAX_SETTINGS_BYTES = 2**20


@dataclass(frozen=True)
class TiktokenSettings:
    """A vocabulary, as its file has it.

    Args:
        pattern: regular expression that splits a text into words; BPE merges inside a word only.
        special_tokens: names and ids of tokens without text.
        ranks: lines of a ``.tiktoken`` file: the base64 of a token's bytes, a space, and its id.
        bos: name of the special token before each document; by default ``<|endoftext|>``, or the only one.
    """

    pattern: str
    special_tokens: dict[str, int]
    ranks: str
    bos: str | None = None


class TiktokenTokenizer(ByteLevelTokenizer):
    """A vocabulary of ``tiktoken``. Special tokens in a text are encoded as ordinary text.

    Raises:
        UserError: ``tiktoken`` is not installed, or the vocabulary is malformed.
    """

    kind = "tiktoken"
    file_name = "tokenizer.json"

    def __init__(self, settings: TiktokenSettings) -> None:
        special = settings.special_tokens
        only = next(iter(special)) if len(special) == 1 else None
        bos = settings.bos or (_END_OF_TEXT if _END_OF_TEXT in special else only)
        if bos not in special:
            raise UserError(f"bos must name a special token, one of {_names(special)}, got {bos!r:.100}")
        ranks = _parse_ranks(settings.ranks)
        ids = [*ranks.values(), *special.values()]
        if len(set(ids)) != len(ids) or not all(0 <= index < _MAX_IDS for index in ids):
            raise UserError(f"its ids must differ and be from 0 to {_MAX_IDS - 1}")
        library = extra("tiktoken")
        try:
            self._encoding = library.Encoding(
                "plgolf", pat_str=settings.pattern, mergeable_ranks=ranks, special_tokens=special
            )
        except ValueError as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"pattern must be a regular expression: {reason:.200}") from error
        pieces = {index: piece for piece, index in ranks.items()}
        super().__init__([pieces.get(index) for index in range(max(ids) + 1)], special[bos])
        self._settings = {**asdict(settings), "bos": bos}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "TiktokenTokenizer":
        """Makes a tokenizer from the contents of its file."""
        values = {key: value for key, value in content.items() if key != "tokenizer_type"}
        return cls(config_from_dict(TiktokenSettings, values, where="tiktoken"))

    @classmethod
    def from_ranks_file(cls, path: Path, *, max_bytes: int) -> "TiktokenTokenizer":
        """Reads a ``.tiktoken`` file and the ``.json`` beside it, which has all settings but the ranks.

        Raises:
            UserError: a file is missing, too large or malformed.
        """
        beside = path.with_suffix(".json")
        if not beside.is_file():
            raise UserError(f'needs {beside.name} beside it, with "pattern" and "special_tokens"')
        try:
            settings = json.loads(read_regular(beside, max_bytes=_MAX_SETTINGS_BYTES))
            ranks = read_regular(path, max_bytes=max_bytes).decode()
        except (ValueError, RecursionError) as error:
            raise UserError(f"must be text, and {beside.name} beside it JSON") from error
        if not isinstance(settings, dict):
            raise UserError(f"{beside.name} beside it must hold a JSON object")
        return cls.from_dict({**settings, "ranks": ranks})

    @classmethod
    def named(cls, name: str) -> "TiktokenTokenizer":
        """Returns an encoding of ``tiktoken``, such as ``gpt2``, which it fetches and caches.

        Raises:
            UserError: ``tiktoken`` is missing, does not know the name, or cannot fetch the vocabulary.
        """
        known = extra("tiktoken").list_encoding_names()
        if name not in known:
            raise UserError(f"must be a file or one of tiktoken's {_names(known)}")
        try:
            found = extra("tiktoken.registry").ENCODING_CONSTRUCTORS[name]()  # Filled by the line above.
        except Exception as error:  # Those of an HTTP library, without a common base.
            raise UserError(
                f"tiktoken could not fetch the vocabulary ({type(error).__name__}); without a network, name "
                "a file instead: a tokenizer.json, or a .tiktoken file (docs/data.md)"
            ) from error
        ranks = _format_ranks(found["mergeable_ranks"])
        return cls(TiktokenSettings(found["pat_str"], dict(found["special_tokens"]), ranks))

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        encode = self._encoding.encode_ordinary
        encoded: list[Ids] = [np.array(encode(text), dtype=np.int64) for text in texts]
        for text, ids in zip(texts, encoded, strict=True):
            if int(self.byte_counts.base_bytes[ids].sum()) != len(text.encode()):
                raise UserError(f"pattern must match every character of a text, got {text[:60]!r}")
        return encoded

    def to_bytes(self) -> bytes:
        """Returns JSON with the settings, the ranks in the order of their ids."""
        ranks = {piece: index for index, piece in enumerate(self.pieces) if piece is not None}
        content = {"tokenizer_type": "tiktoken", **self._settings, "ranks": _format_ranks(ranks)}
        return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()


def _format_ranks(ranks: Mapping[bytes, int]) -> str:
    return "\n".join(f"{base64.b64encode(piece).decode()} {index}" for piece, index in ranks.items())


def _parse_ranks(content: str) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    line = ""
    try:
        for line in content.splitlines():
            encoded, rank = line.split()
            piece = base64.b64decode(encoded, validate=True)
            if not piece or piece in ranks:
                raise ValueError("empty or repeated")
            ranks[piece] = int(rank)
    except ValueError as error:
        rule = "each line of its ranks must be a new token in base64 and its id"
        raise UserError(f"{rule}, got {line!r:.100}") from error
    if missing := [byte for byte in range(256) if bytes([byte]) not in ranks]:
        raise UserError(f"its ranks must hold all 256 bytes, got none for {missing[0]}")
    return ranks


def _names(names: Sequence[str] | Mapping[str, int]) -> str:
    return ", ".join(list(names)[:20]) or "none"
