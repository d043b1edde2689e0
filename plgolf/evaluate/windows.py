"""Scores a text in windows: side by side as in training, or sliding for more context."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from plgolf.data.loader import BatchLoader
from plgolf.data.stream import Batch
from plgolf.errors import UserError, whole_number
from plgolf.evaluate.evaluator import Evaluator, Scored, losses
from plgolf.evaluate.targets import Targets
from plgolf.model import GPT


@dataclass(frozen=True)
class Windows(Evaluator):
    """Windows of a fixed length; each scores the targets that no earlier one has scored.

    Window ``k`` starts at token ``k * stride``, so that all targets but those of the first window have at
    least ``seq_len - stride`` tokens before them. The last window is padded. Every window has one shape, that
    of validation unless ``seq_len`` is another.

    Where training stops attention at documents, so does each window.

    Sliding windows are those of the challenge's records since 2026-03-19
    (https://github.com/openai/parameter-golf), without scoring the end again and again.

    Args:
        seq_len: tokens in a window; null for those of a training sequence.
        stride: tokens from one window to the next; null for ``seq_len``, windows side by side. The model
            computes ``seq_len / stride`` times the tokens.

    Raises:
        UserError: a length is not a whole number from 1, or the stride is larger than the window.

    >>> Windows().name, Windows(stride=64).name, Windows(2048, 64).kind
    ('plain', 'stride_64', 'windowed')
    """

    seq_len: int | None = None
    stride: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("seq_len", self.seq_len), ("stride", self.stride)):
            if value is not None:
                whole_number(name, value, least=1)
        if self.seq_len is not None:
            self.check(self.seq_len)

    @property
    def name(self) -> str:  # type: ignore[override]
        lengths = {"length": self.seq_len, "stride": self.stride}
        return "_".join(f"{word}_{value}" for word, value in lengths.items() if value) or "plain"

    @property
    def kind(self) -> str:  # type: ignore[override]
        return "plain" if self.stride in (None, self.seq_len) else "windowed"

    def check(self, seq_len: int) -> None:
        seq_len = self.seq_len or seq_len
        if self.stride is not None and self.stride > seq_len:
            raise UserError(f"stride must be at most the {seq_len} tokens of a window, got {self.stride}")

    def computed_tokens(self, targets: Targets) -> int:
        windows, seq_len, _ = self._windows(targets)
        return len(windows) * seq_len

    def __call__(self, gpt: GPT, targets: Targets) -> Iterator[Scored]:
        windows, seq_len, stride = self._windows(targets)
        self.check(seq_len)
        device = gpt.embedding.weight.device
        rows = max(targets.batch_sequences * targets.seq_len // seq_len, 1)

        def cut(index: int) -> tuple[Batch, Tensor]:
            starts = windows[index * rows : (index + 1) * rows]
            batch, scored = _cut(targets, starts, rows, seq_len, stride)
            return (batch.pin_memory(), scored.pin_memory()) if device.type == "cuda" else (batch, scored)

        for batch, scored in BatchLoader(cut, -(-len(windows) // rows)):
            nats = losses(gpt, batch.to(device), scored.to(device, non_blocking=True))
            yield Scored(batch.first, nats)

    def _windows(self, targets: Targets) -> tuple[range, int, int]:
        """Returns the starts of the windows that score this rank's targets, their length and stride."""
        seq_len = self.seq_len or targets.seq_len
        stride = self.stride or seq_len
        if targets.first == targets.last:
            return range(0), seq_len, stride

        def start(target: int) -> int:
            """Returns the start of the first window that reaches a target."""
            return max(-((seq_len - 1 - target) // stride), 0) * stride

        return range(start(targets.first), start(targets.last - 1) + 1, stride), seq_len, stride


def _cut(targets: Targets, starts: range, rows: int, seq_len: int, stride: int) -> tuple[Batch, Tensor]:
    """Cuts windows from a text.

    Returns:
        The windows, in a batch of ``rows`` sequences of ``seq_len`` tokens, and the places in it of the
        targets to score, int64 (targets,), which are consecutive from ``batch.first`` on.
    """
    found = targets.read(starts[0], min(starts[-1] + seq_len, targets.num_tokens) + 1 - starts[0])
    begins_none = int(targets.bos_id == 0)  # Padding without documents, each of which would need a border.
    tokens = np.full((rows - 1) * stride + seq_len + 1, begins_none, dtype=found.dtype)
    tokens[: found.size] = found
    inputs, followers = (
        torch.from_numpy(sliding_window_view(part, seq_len)[::stride].copy())
        for part in (tokens[:-1], tokens[1:])
    )
    begins = np.array(starts)[:, None]
    target = begins + np.arange(seq_len)
    # An earlier window has scored what lies before its end.
    fresh = (begins == 0) | (target >= begins + seq_len - stride)
    scored = np.flatnonzero(fresh & (target >= targets.first) & (target < targets.last))
    batch = Batch(inputs, followers, len(starts), first=int(target.flat[scored[0]]))
    return targets.borders.mark(batch) if targets.borders else batch, torch.from_numpy(scored)
