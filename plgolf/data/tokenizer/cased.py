"""CaseOps in front of a tokenizer that reserves its operators."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from plgolf.data.byte_counts import ByteCounts
from plgolf.data.tokenizer.base import Ids, Tokenizer
from plgolf.data.tokenizer.case_ops import OPERATORS, Restorer, literal_operators, original_bytes, transformed


def with_case_ops(tokenizer: Tokenizer) -> Tokenizer:
    """Puts CaseOps in front of a tokenizer if its vocabulary reserves all operators, which says so."""
    return CaseOpsTokenizer(tokenizer) if set(OPERATORS) <= _reserved(tokenizer) else tokenizer


def _reserved(tokenizer: Tokenizer) -> set[str]:
    """Returns the texts that a vocabulary declares to be one id wherever they are."""
    content = tokenizer.to_bytes()
    if tokenizer.kind == "sentencepiece":
        pieces = ModelProto.FromString(content).pieces
        return {piece.piece for piece in pieces if piece.type == piece.USER_DEFINED}
    return {token["content"] for token in json.loads(content)["added_tokens"] if not token.get("special")}


class CaseOpsTokenizer(Tokenizer):
    """Encodes transformed text, and restores what it decodes.

    The bytes of a token are those of the original text, without its operators. They depend on the tokens
    before it only where an operator is in the text itself.

    Args:
        inner: the tokenizer of transformed text; it reserves ``OPERATORS``.
    """

    transform = "caseops"

    def __init__(self, inner: Tokenizer) -> None:
        self.inner = inner
        self.kind, self.file_name, self.has_space = inner.kind, inner.file_name, inner.has_space
        self.vocab_size, self.bos_id, self.unknown_id = inner.vocab_size, inner.bos_id, inner.unknown_id
        self.operators = np.concatenate(inner.encode_batch(list(OPERATORS)))
        """Ids of the operators."""

    @property
    def lossless(self) -> bool:  # type: ignore[override]
        return self.inner.lossless

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        return self.inner.encode_batch([transformed(text) for text in texts])

    def decode(self, ids: Iterable[int]) -> str:
        return self.restorer()(self.inner.decode(ids))

    @staticmethod
    def restorer() -> Callable[[str], str]:
        """Returns a function that restores decoded text, which it gets in parts, in order."""
        return Restorer()

    def bytes_of(self, index: int) -> bytes | None:  # noqa: ARG002
        return None  # An operator may change them.

    def normalize(self, text: str) -> str:
        return text if self.lossless else self.inner.normalize(transformed(text))

    @cached_property
    def byte_counts(self) -> ByteCounts[NDArray[np.generic]]:
        inner = self.inner.byte_counts
        base_bytes = inner.base_bytes.copy()
        base_bytes[self.operators] = 0
        return _CaseOpsCounts(base_bytes, inner.has_leading_space, inner.is_boundary, self.operators)

    def raw_bytes(self, text: str, ids: Ids) -> NDArray[np.int64]:
        changed = transformed(text)
        before = np.cumsum([0, *original_bytes(changed)])
        return np.diff(before[np.cumsum(self.inner.raw_bytes(changed, ids))], prepend=0)

    def to_bytes(self) -> bytes:
        return self.inner.to_bytes()


@dataclass(frozen=True)
class _CaseOpsCounts(ByteCounts[NDArray[np.generic]]):
    """Bytes of tokens in the original text, as far as they are those of the decoded text."""

    operators: NDArray[Any]

    def of_stream(self, tokens: NDArray[Any]) -> NDArray[Any]:
        counts = super().of_stream(tokens)
        counts[literal_operators(tokens, self.operators)] = len(OPERATORS[0].encode())
        return counts
