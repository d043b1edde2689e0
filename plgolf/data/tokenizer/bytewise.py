"""The tokenizer that needs no training."""

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from plgolf.data.byte_counts import ByteCounts
from plgolf.data.tokenizer.base import Ids, Tokenizer


class ByteTokenizer(Tokenizer):
    """A token for each UTF-8 byte: 260 ids, pad 0, bos 1, eos 2, unk 3 and byte b at b + 4.

    >>> ByteTokenizer().encode("aé").tolist()
    [101, 199, 173]
    """

    kind = "byte"
    file_name = "tokenizer.json"
    vocab_size = 260
    bos_id = 1
    lossless = True
    offset = 4

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        return [np.frombuffer(text.encode(), dtype=np.uint8) + np.uint16(self.offset) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        runs = groupby(ids, key=lambda index: index >= self.offset)
        texts = (
            bytes(i - self.offset for i in run).decode(errors="replace") for spoken, run in runs if spoken
        )
        return "".join(texts)

    def byte_of(self, index: int) -> int | None:
        return index - self.offset if index >= self.offset else None

    def normalize(self, text: str) -> str:
        return text

    @cached_property
    def byte_counts(self) -> ByteCounts[NDArray[np.generic]]:
        is_byte = np.arange(self.vocab_size) >= self.offset
        return ByteCounts(is_byte.astype(np.int32), np.zeros_like(is_byte), ~is_byte)

    def raw_bytes(self, text: str, ids: Ids) -> NDArray[np.int64]:  # noqa: ARG002
        return np.ones(len(ids), dtype=np.int64)

    def to_bytes(self) -> bytes:
        """Returns the description that the challenge's published exports have, too."""
        config = {
            "pad_id": 0,
            "bos_id": self.bos_id,
            "eos_id": 2,
            "unk_id": 3,
            "byte_offset": self.offset,
            "byte_count": 256,
        }
        content = {"tokenizer_type": "pure_byte", "config": config, "vocab_size": self.vocab_size}
        return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()
