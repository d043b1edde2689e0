"""Losses and gradients that are not finite: found without waiting for the device, then named."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from plgolf.distributed import all_gather_floats
from plgolf.errors import RunError
from plgolf.training.logs.screen import say

_MAX_SKIPS = 10
"""Steps in a row that may be skipped. After more than that the data is not the cause."""


class StepValues(NamedTuple):
    """Losses of one optimizer step and norms of its gradients by parameter, on the device."""

    losses: list[Tensor]
    norms: dict[str, Tensor]

    @property
    def width(self) -> int:
        """Number of values."""
        return len(self.norms) + len(self.losses)

    def split(self, values: Sequence[float]) -> list[float]:
        """Returns the norm of the whole gradient, then the losses, from ``StepStatistics.stacked``."""
        return [math.hypot(*values[: len(self.norms)]), *values[len(self.norms) :]]


class StepStatistics:
    """Losses and gradient norms of each step, kept on the device until they are read.

    Nothing is read while steps run, so that the host never waits for a GPU.

    Args:
        params: parameters of the model by name.
        stop: raise a RunError on every rank when a value that is read is not finite.
    """

    def __init__(self, params: Mapping[str, nn.Parameter], *, stop: bool = True) -> None:
        self._params, self._stop = params, stop
        self._current = StepValues([], {})
        self._unread: list[StepValues] = []
        self._skipped = 0
        self.has_ended = True
        """True once the step that began last has ended."""

    def begin(self) -> None:
        """Starts a step."""
        self._current, self.has_ended = StepValues([], {}), False

    def add_loss(self, loss: Tensor) -> None:
        """Adds the loss () of a micro-batch."""
        self._current.losses.append(loss.detach())

    def add_gradients(self) -> None:
        """Adds the norm of every gradient."""
        grads = {name: grad for name, p in self._params.items() if (grad := p.grad) is not None}
        self._current.norms.update(norms_of(grads))

    def end(self) -> None:
        """Ends the step: its values wait to be read."""
        self._unread.append(self._current)
        self.has_ended = True

    def take(self) -> list[StepValues]:
        """Returns the steps that have not been read, and forgets them.

        They are removed before the ranks exchange them, because a signal handler may save a checkpoint
        during the exchange, and must not exchange them again.
        """
        unread, self._unread = self._unread, []
        return unread

    def stacked(self, steps: Sequence[StepValues]) -> Tensor:
        """Returns norms and losses of each step, one step after the other, float32 (n,)."""
        values = [value for step in steps for value in (*step.norms.values(), *step.losses)]
        if values:
            return torch.stack(values).float()
        device = next((p.device for p in self._params.values()), None)
        return torch.empty(0, device=device)

    def read_all(self, trainer: Trainer) -> None:
        """Exchanges and checks what has not been read; every rank calls it after the same step."""
        unread = self.take()
        if unread:
            self.read(trainer, unread, all_gather_floats(self.stacked(unread)))

    def read(
        self, trainer: Trainer, unread: Sequence[StepValues], by_rank: Sequence[Sequence[float]]
    ) -> tuple[float, float]:
        """Checks the values of all ranks.

        Args:
            trainer: tells which step was the last of them.
            unread: steps of this rank.
            by_rank: values of ``stacked`` from each rank.

        Returns:
            Mean loss of the last step, and the norm of its gradient.

        Raises:
            RunError: a value is not finite; on every rank, silent on all but the first.
        """
        if self._stop and not math.isfinite(sum(map(sum, by_rank))):
            end = 0
            for i, values in enumerate(unread):
                start, end = end, end + values.width
                ranks = [values.split(row[start:end]) for row in by_rank]
                problem = _problem(trainer, values, ranks, step=trainer.global_step + 1 - len(unread) + i)
                if problem:
                    silent = trainer.global_rank > 0
                    raise RunError(f"{problem}; checkpoints are of earlier steps", silent=silent)
        last = [unread[-1].split(row[len(row) - unread[-1].width :]) for row in by_rank]
        losses = [loss for row in last for loss in row[1:]]
        return sum(losses) / len(losses) if losses else math.nan, last[0][0]

    def drop_if_nonfinite(self, trainer: Trainer, optimizer: Optimizer) -> None:
        """Drops the gradients if a value of the current step is not finite, so that the step changes nothing.

        Args:
            trainer: tells which step is about to be made.
            optimizer: holds the gradients.

        Raises:
            RunError: this would be the eleventh skipped step in a row.
        """
        by_rank = [self._current.split(row) for row in all_gather_floats(self.stacked([self._current]))]
        problem = _problem(trainer, self._current, by_rank, step=trainer.global_step + 1)
        if not problem:
            self._skipped = 0
            return
        if self._skipped == _MAX_SKIPS:
            silent = trainer.global_rank > 0
            raise RunError(f"{problem}, after {self._skipped} skipped steps in a row", silent=silent)
        self._skipped += 1
        say(f"{problem}: step skipped")
        optimizer.zero_grad(set_to_none=True)


def _problem(
    trainer: Trainer, values: StepValues, by_rank: Sequence[Sequence[float]], *, step: int
) -> str | None:
    found = find_nonfinite(by_rank)
    if found is None:
        return None
    rank, index = found
    accumulation = len(values.losses)
    first = (step - 1) * accumulation
    if index >= 0:
        loss, place = by_rank[rank][1 + index], _place(trainer, first + index, first + index, [rank])
        return (
            f"step {step}: the loss of rank {rank} is {loss} in micro-batch {index + 1} of "
            f"{accumulation} ({place})"
        )
    place = _place(trainer, first, first + accumulation - 1, range(trainer.world_size))
    return (
        f"step {step}: the gradient of {first_nonfinite(values.norms) or 'the model'} on rank {rank} "
        f"is not finite, though every loss is ({place})"
    )


def norms_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the norm () of each tensor, on its device; it is not finite if one of the values is not."""
    if not tensors:
        return {}
    if next(iter(tensors.values())).is_cuda:
        return fused_norms(tensors)
    return dict(zip(tensors, torch._foreach_norm(list(tensors.values())), strict=True))


def fused_norms(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the norms of ``norms_of`` as float32 or wider, in a few kernels for all tensors of a dtype.

    On a list of mixed dtypes, and when stacking mixed results, a GPU takes one kernel for each tensor.
    """
    norms: dict[str, Tensor] = {}
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors.values()):
        alike = {name: tensor for name, tensor in tensors.items() if tensor.dtype == dtype}
        wide = torch.promote_types(dtype, torch.float32)
        norms.update(zip(alike, torch._foreach_norm(list(alike.values()), 2, wide), strict=True))
    return {name: norms[name] for name in tensors}


def first_nonfinite(norms: Mapping[str, Tensor]) -> str | None:
    """Returns the name of the first norm that is not finite, or None; waits for the device once."""
    values = torch.stack([norm.float() for norm in norms.values()]).tolist()
    return next((name for name, norm in zip(norms, values, strict=True) if not math.isfinite(norm)), None)


@torch.no_grad()
def check_finite(trainer: Trainer) -> None:
    """Raises a RunError on every rank if a weight is not finite: losses show that one step later."""
    bad = first_nonfinite(norms_of(dict(trainer.lightning_module.named_parameters())))
    if bad:
        message = f"step {trainer.global_step}: the weight {bad} is not finite"
        raise RunError(f"{message}; checkpoints are of earlier steps", silent=trainer.global_rank > 0)


def _place(trainer: Trainer, first: int, last: int, of_ranks: Sequence[int]) -> str:
    data = trainer.datamodule  # type: ignore[attr-defined]
    if hasattr(data, "place_of"):
        place: str = data.place_of(first, last, of_ranks)
        return place
    return f"micro-batches {first} to {last}"


def find_nonfinite(by_rank: Sequence[Sequence[float]]) -> tuple[int, int] | None:
    """Finds the first value of a step that is not finite.

    Args:
        by_rank: norm of the gradient, then the losses, of each rank.

    Returns:
        Rank and micro-batch of the first loss that is not finite; micro-batch -1 if all losses are finite but
        the gradient is not; None if everything is finite.

    >>> find_nonfinite([[0.5, 3.1, 3.2], [0.5, 3.0, float("nan")]])
    (1, 1)
    """
    for rank, (_, *losses) in enumerate(by_rank):
        for index, loss in enumerate(losses):
            if not math.isfinite(loss):
                return rank, index
    bad = (rank for rank, (gradient_norm, *_) in enumerate(by_rank) if not math.isfinite(gradient_norm))
    return next(((rank, -1) for rank in bad), None)
