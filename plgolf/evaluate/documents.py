"""Scores texts: how well a model compresses them."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plgolf.data.tokenizer import Tokenizer
from plgolf.errors import UserError
from plgolf.evaluate.evaluator import evaluate
from plgolf.evaluate.targets import Targets
from plgolf.evaluate.windows import Windows
from plgolf.model import GPT

_BATCH_LOGITS = 2**24
"""Logits in a batch, unless a single window has more: 64 MiB as float32."""


@dataclass(frozen=True)
class TextScore:
    """The score of a text: total loss in nats, bytes in UTF-8, bits per byte, and scored tokens."""

    nats: float
    num_bytes: int
    bpb: float
    num_tokens: int


def score_documents(gpt: GPT, tokenizer: Tokenizer, documents: Iterable[str], *, seq_len: int) -> TextScore:
    """Scores documents as validation does: one stream, cut into windows, each token once.

    The stream has the begin-of-sequence id before each document. A window does not see the one before it.
    The last window may be shorter; validation leaves it out.

    Args:
        gpt: the model; it computes in its own dtype.
        tokenizer: the model's tokenizer.
        documents: any iterable of texts.
        seq_len: tokens in a window.

    Raises:
        UserError: there is no text, an item is not a Unicode string, or a loss is not finite.
    """
    documents = _checked(documents)
    num_bytes = sum(len(utf8(text)) for text in documents)
    if not num_bytes:
        raise UserError("text must not be empty")
    parts = ([[tokenizer.bos_id], ids] for ids in tokenizer.encode_batch(documents))
    stream = np.concatenate([part for both in parts for part in both]).astype(np.int64)
    if gpt.config.attention.rope_length is None:  # It would set the rotary base to that of a short text.
        seq_len = min(seq_len, len(stream) - 1)  # A short text is not padded.
    score = evaluate(Windows(), gpt, _targets(stream, seq_len, gpt.config.vocab_size))
    if not math.isfinite(score.nats):
        raise UserError(f"the model's losses must be finite, got {score.nats}")
    bpb = score.nats / (math.log(2) * num_bytes)
    return TextScore(nats=score.nats, num_bytes=num_bytes, bpb=bpb, num_tokens=score.num_tokens)


def _targets(stream: NDArray[np.int64], seq_len: int, vocab_size: int) -> Targets:
    num_tokens = len(stream) - 1
    windows, most = -(-num_tokens // seq_len), max(_BATCH_LOGITS // (seq_len * vocab_size), 1)
    return Targets(
        read=lambda start, count: stream[start : start + count],
        num_tokens=num_tokens,
        first=0,
        last=num_tokens,
        seq_len=seq_len,
        batch_sequences=-(-windows // -(-windows // most)),  # The last batch has little padding.
    )


def _checked(documents: Iterable[str]) -> list[str]:
    if isinstance(documents, str | bytes | Mapping) or not isinstance(documents, Iterable):
        kind = type(documents).__name__
        raise UserError(f"text must be a string or an iterable of strings, got {kind}")
    texts = list(documents)
    for index, text in enumerate(texts):
        utf8(text, name="text" if len(texts) == 1 else f"text[{index}]")
    return texts


def utf8(text: str, *, name: str = "text") -> bytes:
    """Returns a text's bytes; raises a UserError for lone surrogates, from bytes that were not UTF-8."""
    if not isinstance(text, str):
        raise UserError(f"{name} must be a string, got {type(text).__name__}")
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{name} must be Unicode, got {text[error.start]!r} at {error.start}") from error
