"""What a score is made of: by position in the sequence, and the documents that were hardest."""

import heapq
import math
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from plgolf.data.stream import Batch, ValidationSplit
from plgolf.data.tokenizer import TextStream, Tokenizer

FORMAT = 1
_POSITION_GROWTH = 1.2
_SHORTEST_TOKENS = 64
"""Of a document that is shown: any two words can be hard."""
_SHOWN_TOKENS = 300


class ScoreAnalysis:
    """Takes apart a validation: every rank adds what it scores, then all of them finish together.

    Args:
        split: the validation split of this rank.
        tokenizer: of the split.
        num_documents: how many of the hardest documents are kept.
    """

    def __init__(self, split: ValidationSplit, tokenizer: Tokenizer, *, num_documents: int) -> None:
        self.split, self.tokenizer, self.num_documents = split, tokenizer, num_documents
        self._nats: list[NDArray[np.float32]] = []

    def add(self, batch: Batch, nats: Tensor) -> None:
        """Takes the losses (sequences, seq_len) of a batch; batches come in the split's order."""
        self._nats.append(nats[: batch.num_sequences].float().cpu().numpy())

    def finish(self, device: torch.device) -> dict[str, Any]:
        """Puts the ranks' parts together; every rank calls it.

        Args:
            device: where ranks exchange tensors.

        Returns:
            What ``analysis.json`` holds.
        """
        seq_len, split = self.split.seq_len, self.split
        nats = np.concatenate(self._nats) if self._nats else np.zeros((0, seq_len), np.float32)
        start = split.first * seq_len
        # The token before the first target, for its sake, and all targets.
        tokens = split.reader.read(start, nats.size + 1)
        num_bytes = self.tokenizer.byte_counts.of_stream(tokens)[1:]
        by_position = np.stack([nats.astype(np.float64).sum(0), num_bytes.reshape(-1, seq_len).sum(0)])
        totals = torch.as_tensor(np.vstack([by_position, np.full(seq_len, len(nats))]), device=device)
        documents = self._hardest(tokens, nats.ravel(), num_bytes, start)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(totals)
            everyones: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(everyones, documents)
            documents = self._first_few(document for part in everyones for document in part)
        return {
            "format": FORMAT,
            "seq_len": seq_len,
            "positions": _by_position(totals.cpu().numpy()),
            "documents": documents,
        }

    def _first_few(self, documents: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        return heapq.nlargest(self.num_documents, documents, key=lambda document: float(document["bpb"]))

    def _hardest(
        self, tokens: NDArray[Any], nats: NDArray[Any], num_bytes: NDArray[Any], start: int
    ) -> list[dict[str, Any]]:
        """Finds the documents of the most bits per byte among these targets (n,), which follow ``start``."""
        targets, found = tokens[1:], []
        # What comes before the first begin-of-sequence goes on from another rank, or is all there is.
        begins = np.flatnonzero(targets == self.tokenizer.bos_id)
        bounds = np.unique(np.concatenate([[-1], begins, [nats.size]]))
        for before, last in pairwise(bounds.tolist()):
            first = before + 1
            size = int(num_bytes[first:last].sum())
            if last - first < _SHORTEST_TOKENS or not size:
                continue
            cost = nats[first:last].astype(np.float64)
            found.append(
                {
                    "start_token": start + first + 1,
                    "num_tokens": last - first,
                    "num_bytes": size,
                    "bpb": float(cost.sum() / math.log(2) / size),
                    "shown_from": _hardest_window(cost),
                }
            )
        hardest = self._first_few(found)
        for document in hardest:
            shown = document["start_token"] - start - 1 + document["shown_from"]
            end = min(shown + _SHOWN_TOKENS, shown - document["shown_from"] + document["num_tokens"])
            document["tokens"] = self._texts(targets[shown:end], nats[shown:end])
        return hardest

    def _texts(self, ids: NDArray[Any], nats: NDArray[Any]) -> list[tuple[str, float]]:
        stream = TextStream(self.tokenizer)
        texts = [stream.push(index) for index in ids.tolist()]
        texts[-1] += stream.flush()
        return [(text, round(cost, 4)) for text, cost in zip(texts, nats.tolist(), strict=True)]


def _hardest_window(cost: NDArray[np.float64]) -> int:
    """Returns where the window of tokens begins that costs the most."""
    if cost.size <= _SHOWN_TOKENS:
        return 0
    sums = np.concatenate([[0.0], np.cumsum(cost)])
    return int(np.argmax(sums[_SHOWN_TOKENS:] - sums[:-_SHOWN_TOKENS]))


def _by_position(totals: NDArray[np.float64]) -> list[dict[str, Any]]:
    """Joins positions (nats, bytes and sequences by position) into ever wider groups."""
    seq_len, groups, first = totals.shape[1], [], 0
    while first < seq_len:
        end = min(max(first + 1, int(first * _POSITION_GROWTH)), seq_len)
        nats, num_bytes, sequences = totals[:, first:end].sum(1)
        group = {"first": first, "last": end - 1, "loss": nats / max(sequences, 1)}
        if num_bytes:  # Of a few tokens, all of them may stand for none.
            groups.append({**group, "bpb": nats / math.log(2) / num_bytes})
        first = end
    return groups
