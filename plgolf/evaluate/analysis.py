"""Breaks a score down: by position in the sequence, and the hardest documents."""

import heapq
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from plgolf.data.tokenizer import TextStream, Tokenizer
from plgolf.distributed import ranks
from plgolf.evaluate.evaluator import Scored
from plgolf.evaluate.targets import Targets

FORMAT = 1
_POSITION_GROWTH = 1.2
_SHORTEST_TOKENS = 64
"""Shortest document that is listed: any two words can be hard."""
_SHOWN_TOKENS = 300


class ScoreAnalysis:
    """Collects losses by position and by document, as an observer of a plain evaluation.

    Every rank adds its own, then all finish together. Memory does not grow with the split: only the tokens of
    the current document are kept.
    """

    def __init__(self, targets: Targets, tokenizer: Tokenizer, *, num_documents: int) -> None:
        self.targets, self.tokenizer, self.num_documents = targets, tokenizer, num_documents
        self._totals = np.zeros((3, targets.seq_len))
        """Nats, bytes and targets by position, float64 (3, seq_len)."""
        self._next_token = targets.first + 1
        # Tokens before the first begin-of-sequence continue another rank's document.
        self._start_token = self._next_token
        self._parts: list[tuple[NDArray[Any], ...]] = []
        """The current document so far: ids, nats and bytes of its tokens, by batch."""
        self._hardest: list[dict[str, Any]] = []

    def add(self, scored: Scored, num_bytes: NDArray[Any]) -> None:
        """Adds the next whole sequences; waits for the device."""
        costs = scored.nats.double().cpu().numpy()
        rows = (costs.reshape(-1, self.targets.seq_len), num_bytes.reshape(-1, self.targets.seq_len))
        self._totals += [rows[0].sum(0), rows[1].sum(0), np.full(self.targets.seq_len, len(rows[0]))]
        self._add_targets(self.targets.read(scored.first + 1, costs.size), costs, num_bytes)

    def _add_targets(self, *arrays: NDArray[Any]) -> None:
        """Extends the current document, and ends it at each begin-of-sequence."""
        targets, first = arrays[0], 0
        for begin in np.flatnonzero(targets == self.tokenizer.bos_id).tolist():
            self._parts.append(tuple(array[first:begin] for array in arrays))
            self._end_document()
            first = begin + 1
            self._start_token = self._next_token + first
        self._parts.append(tuple(array[first:].copy() for array in arrays))
        self._next_token += targets.size

    def finish(self, device: torch.device) -> dict[str, Any]:
        """Returns the contents of ``analysis.json``; all ranks must call this together.

        They exchange tensors on ``device``.
        """
        if self._parts:
            self._end_document()
        totals, documents = torch.as_tensor(self._totals, device=device), self._hardest
        world_size = ranks()[1]
        if world_size > 1:
            dist.all_reduce(totals)
            everyones: list[Any] = [None] * world_size
            dist.all_gather_object(everyones, documents)
            documents = self._first_few(document for part in everyones for document in part)
        return {
            "format": FORMAT,
            "seq_len": totals.size(1),
            "positions": _by_position(totals.cpu().numpy()),
            "documents": documents,
        }

    def _first_few(self, documents: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        return heapq.nlargest(self.num_documents, documents, key=lambda document: float(document["bpb"]))

    def _end_document(self) -> None:
        """Keeps the document if it is among those with the most bits per byte."""
        targets, cost, num_bytes = map(np.concatenate, zip(*self._parts, strict=True))
        self._parts = []
        size = int(num_bytes.sum())
        if cost.size < _SHORTEST_TOKENS or not size:
            return
        document: dict[str, Any] = {
            "start_token": self._start_token,
            "num_tokens": cost.size,
            "num_bytes": size,
            "bpb": float(cost.sum() / math.log(2) / size),
        }
        self._hardest = self._first_few([*self._hardest, document])
        if any(kept is document for kept in self._hardest):
            document["shown_from"] = first = _hardest_window(cost)
            shown = slice(first, first + _SHOWN_TOKENS)
            document["tokens"] = self._texts(targets[shown], cost[shown])

    def _texts(self, ids: NDArray[Any], nats: NDArray[Any]) -> list[tuple[str, float]]:
        stream = TextStream(self.tokenizer)
        texts = [stream.push(index) for index in ids.tolist()]
        texts[-1] += stream.flush()
        return [(text, round(cost, 4)) for text, cost in zip(texts, nats.tolist(), strict=True)]


def _hardest_window(cost: NDArray[np.float64]) -> int:
    """Returns the start of the window of tokens with the highest loss."""
    if cost.size <= _SHOWN_TOKENS:
        return 0
    sums = np.concatenate([[0.0], np.cumsum(cost)])
    return int(np.argmax(sums[_SHOWN_TOKENS:] - sums[:-_SHOWN_TOKENS]))


def _by_position(totals: NDArray[np.float64]) -> list[dict[str, Any]]:
    """Joins positions of totals (3, seq_len) into groups that widen with the position."""
    seq_len, groups, first = totals.shape[1], [], 0
    while first < seq_len:
        end = min(max(first + 1, int(first * _POSITION_GROWTH)), seq_len)
        nats, num_bytes, sequences = totals[:, first:end].sum(1)
        group = {"first": first, "last": end - 1, "loss": nats / max(sequences, 1)}
        if num_bytes:  # A group may have nothing but tokens without text.
            groups.append({**group, "bpb": nats / math.log(2) / num_bytes})
        first = end
    return groups
