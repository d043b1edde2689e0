"""Bits per byte: how well a model compresses text, whatever its tokenizer."""

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torchmetrics import Metric


def bits_per_byte(nats: Tensor, num_bytes: Tensor) -> Tensor:
    """Converts the total loss of tokens in nats, and their UTF-8 bytes, to bits per byte in float64.

    The result is NaN or infinite where ``num_bytes`` is 0.
    """
    return nats.double() / (math.log(2) * num_bytes.double())


class BitsPerByte(Metric):
    """Sums nats, tokens and bytes over batches and ranks in float64, and divides once.

    Averaging per-batch rates instead would overweight short batches. Bytes are counted twice: as the tokens
    stand for them, which is the rule of the challenge (https://github.com/openai/parameter-golf), and, where
    that is known, as the text had them before a tokenizer rewrote it.

    Args:
        kwargs: options of ``torchmetrics.Metric``, such as ``process_group``.

    >>> metric = BitsPerByte()
    >>> metric.update(nats=torch.tensor([1.0, 2.0]), num_tokens=2, num_bytes=torch.tensor([3, 4]))
    >>> round(metric.compute().item(), 4), round(metric.loss().item(), 4)
    (0.6183, 1.5)
    """

    full_state_update = False
    higher_is_better = False
    is_differentiable = False
    memory: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"dist_sync_fn": _all_reduce, **kwargs})
        # Float64 kept as int64: a cast of the whole module, such as `.to(bfloat16)`, leaves integers alone.
        self.add_state("memory", torch.zeros(4, dtype=torch.int64), dist_reduce_fx=_add)

    @property
    def sums(self) -> Tensor:
        """Nats, tokens, bytes and raw bytes of this rank, float64 (4,)."""
        return self.memory.view(torch.float64)

    def update(
        self,
        nats: Tensor,
        num_tokens: Tensor | int,
        num_bytes: Tensor | int,
        num_raw_bytes: Tensor | int = 0,
    ) -> None:
        """Adds a batch.

        Args:
            nats: losses of the scored tokens in nats, any shape; they are summed.
            num_tokens: number of these tokens; a tensor is summed.
            num_bytes: UTF-8 bytes that they stand for; a tensor is summed.
            num_raw_bytes: UTF-8 bytes of the text that they were made from; a tensor is summed.
        """
        sums = self.sums
        for index, value in enumerate((nats, num_tokens, num_bytes, num_raw_bytes)):
            # A number stays a number: making a GPU tensor of it would wait for the GPU.
            sums[index] += value.to(sums.device).double().sum() if isinstance(value, Tensor) else value

    def compute(self) -> Tensor:
        """Returns bits per byte over all batches and ranks, float64 (); NaN before the first update."""
        return bits_per_byte(self.sums[0], self.sums[2])

    def totals(self) -> Tensor:
        """Returns nats, tokens, bytes and raw bytes over all ranks, float64 (4,)."""
        with self.sync_context(dist_sync_fn=self.dist_sync_fn):
            return self.sums.clone()

    def loss(self) -> Tensor:
        """Returns the mean nats per token over all ranks, float64 (); NaN before the first update."""
        totals = self.totals()
        return totals[0] / totals[1]


def _all_reduce(memory: Tensor, group: Any = None) -> list[Tensor]:
    """Adds up in one collective, where torchmetrics' default takes three."""
    sums = memory.view(torch.float64).clone()
    dist.all_reduce(sums, group=group)
    return [sums.view(torch.int64)]


def _add(memories: Tensor) -> Tensor:
    """Adds up rows, int64 (ranks, 4), as the float64 that they are."""
    return memories.view(torch.float64).sum(0).view(torch.int64)
