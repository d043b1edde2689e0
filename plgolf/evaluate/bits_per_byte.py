"""Bits per byte: how well a model compresses text, whatever its tokenizer."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors


def bits_per_byte(nats: Tensor, num_bytes: Tensor) -> Tensor:
    """Converts a total loss to bits per byte.

    Args:
        nats: negative log-likelihood of all scored tokens together, in nats.
        num_bytes: UTF-8 bytes that these tokens stand for.

    Returns:
        Bits per byte, float64.

    >>> two_bits_each = math.log(4) * torch.tensor(100.0)
    >>> round(bits_per_byte(two_bits_each, num_bytes=torch.tensor(400)).item(), 4)
    0.5
    """
    return nats.double() / (math.log(2) * num_bytes.double())


class BitsPerByte(Metric):
    """Sums nats, tokens and bytes over batches and ranks in float64, and divides once.

    Averaging per-batch rates instead would overweight short batches. Bytes are counted twice over: as the
    tokens stand for them, which is the challenge's rule, and, where that is known, as the text had them
    before a tokenizer rewrote it.

    >>> metric = BitsPerByte()
    >>> metric.update(nats=torch.tensor([1.0, 2.0]), num_tokens=2, num_bytes=torch.tensor([3, 4]))
    >>> round(metric.compute().item(), 4), round(metric.loss().item(), 4)
    (0.6183, 1.5)
    """

    full_state_update = False
    higher_is_better = False
    is_differentiable = False
    sums: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("sums", torch.zeros(4, dtype=torch.float64), dist_reduce_fx="sum")

    def update(
        self,
        nats: Tensor,
        num_tokens: Tensor | int,
        num_bytes: Tensor | int,
        num_raw_bytes: Tensor | int = 0,
    ) -> None:
        """Adds a batch.

        Args:
            nats: loss of the scored tokens in nats, any shape; it is summed.
            num_tokens: how many tokens that is; a tensor is summed.
            num_bytes: UTF-8 bytes they stand for; a tensor is summed.
            num_raw_bytes: bytes of the text they were made from; a tensor is summed.
        """
        for index, value in enumerate((nats, num_tokens, num_bytes, num_raw_bytes)):
            if isinstance(value, Tensor):
                self.sums[index] += value.to(self.sums.device).double().sum()
            else:  # As it is: to make a tensor of it on a GPU is to wait for that.
                self.sums[index] += value

    def _sync_dist(
        self, dist_sync_fn: Callable[..., Any] = gather_all_tensors, process_group: Any = None
    ) -> None:
        """Adds up in one collective, where torchmetrics' own way takes three."""
        if dist_sync_fn is not gather_all_tensors:
            super()._sync_dist(dist_sync_fn, process_group)
            return
        sums = self.sums.clone()  # What was there is this rank's afterwards.
        dist.all_reduce(sums, group=process_group or self.process_group)
        self.sums = sums

    def compute(self) -> Tensor:
        """Returns bits per byte over everything seen, float64; NaN before the first update."""
        return bits_per_byte(self.sums[0], self.sums[2])

    def totals(self) -> Tensor:
        """Returns nats, tokens, bytes and raw bytes over all ranks, float64 (4,)."""
        with self.sync_context():
            return self.sums.clone()

    def loss(self) -> Tensor:
        """Returns the mean nats per token over all ranks, float64; NaN before the first update."""
        totals = self.totals()
        return totals[0] / totals[1]

    def _apply(self, fn: Callable[..., Any], exclude_state: Any = "") -> "BitsPerByte":
        # A cast of the whole module (`.to(bfloat16)`) must not take the sums along.
        before = self.sums
        super()._apply(fn, exclude_state)
        self.sums = before.to(self.sums.device)
        default = self._defaults["sums"]
        assert isinstance(default, Tensor)
        self._defaults["sums"] = default.double()
        return self
