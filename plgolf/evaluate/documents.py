"""Scores texts: how well a model compresses them."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from plgolf.data.tokenizer import Tokenizer
from plgolf.errors import UserError
from plgolf.evaluate import bits_per_byte
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
    stream = torch.from_numpy(np.concatenate([part for both in parts for part in both]).astype(np.int64))
    nats, num_tokens = 0.0, len(stream) - 1
    whole = num_tokens - num_tokens % seq_len
    rows = max(_BATCH_LOGITS // (seq_len * gpt.config.vocab_size), 1) * seq_len
    edges = sorted({*range(0, whole, rows), whole, num_tokens})
    for start, end in pairwise(edges):
        ids = (stream[start + shift : end + shift].view(-1, min(seq_len, end - start)) for shift in (0, 1))
        nats += _nats(gpt, *ids)
    if not math.isfinite(nats):
        raise UserError(f"the model's losses must be finite, got {nats}")
    bpb = bits_per_byte(torch.tensor(nats, dtype=torch.float64), torch.tensor(num_bytes)).item()
    return TextScore(nats=nats, num_bytes=num_bytes, bpb=bpb, num_tokens=num_tokens)


@torch.inference_mode()
def _nats(gpt: GPT, input_ids: torch.Tensor, target_ids: torch.Tensor) -> float:
    device = gpt.embedding.weight.device
    losses = gpt(input_ids.to(device), target_ids.to(device), reduction="none")
    # Summed token by token in float64, as in validation.
    return float(losses.double().sum())


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
