"""The tokenizer of single bytes, which needs no training."""

import json
from collections.abc import Sequence

import numpy as np

from plgolf.data.tokenizer.base import ByteLevelTokenizer, Ids


class ByteTokenizer(ByteLevelTokenizer):
    """One token per UTF-8 byte: 260 ids, pad 0, bos 1, eos 2, unk 3, and byte b at b + 4.

    >>> ByteTokenizer().encode("aé").tolist()
    [101, 199, 173]
    """

    kind = "byte"
    file_name = "tokenizer.json"
    vocab_size = 260
    bos_id = 1
    offset = 4

    def __init__(self) -> None:
        super().__init__([*self.offset * [None], *(bytes([byte]) for byte in range(256))], self.bos_id)

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        return [np.frombuffer(text.encode(), dtype=np.uint8) + np.uint16(self.offset) for text in texts]

    def to_bytes(self) -> bytes:
        """Returns the description that the challenge's published exports contain."""
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
