"""Losses and gradients that are no numbers: found without waiting for a device, named, stopped or skipped."""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from plgolf.errors import RunError
from plgolf.optim.sharing import of_all_ranks
from plgolf.training.console import say

_MOST_SKIPS = 10
"""Steps in a row that may be skipped: beyond, it is not the data."""


class StepNumbers:
    """The losses of a step's micro-batches and the norm of its gradient, on the device until somebody asks.

    Nothing is read while micro-batches go through, so that a GPU is never waited for.
    """

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._norms: dict[str, Tensor] = {}
        self._skipped = 0

    def begin(self) -> None:
        """Forgets the step before."""
        self._losses = []

    def see_loss(self, loss: Tensor) -> None:
        """Takes the loss () of a micro-batch."""
        self._losses.append(loss.detach())

    def see_gradients(self, params: Iterable[tuple[str, nn.Parameter]]) -> None:
        """Takes the norm of every gradient; that of one with an infinity or NaN in it is not finite."""
        self._norms = norms_of({name: p.grad for name, p in params if p.grad is not None})

    def facts(self) -> Tensor:
        """Returns the norm of the whole gradient and the losses, float64 (1 + micro-batches,)."""
        norm = torch.linalg.vector_norm(torch.stack([norm.float() for norm in self._norms.values()]))
        return torch.stack([norm, *(loss.float() for loss in self._losses)]).double()

    def stop_if_nonfinite(self, trainer: Trainer, everyones: Sequence[Sequence[float]]) -> None:
        """Raises a RunError on every rank if the step that was just made has a number that is none.

        Args:
            trainer: says which step that was.
            everyones: ``facts`` of all ranks.
        """
        problem = self._problem(trainer, everyones, step=trainer.global_step)
        if problem:
            raise RunError(f"{problem}; checkpoints are of earlier steps", silent=trainer.global_rank > 0)

    def skip_if_nonfinite(self, trainer: Trainer, optimizer: Optimizer) -> None:
        """Takes the gradients away if a number is none, so that the optimizer has nothing to do.

        Args:
            trainer: says which step is about to be made.
            optimizer: the one to make it.

        Raises:
            RunError: it would be the eleventh in a row.
        """
        problem = self._problem(trainer, of_all_ranks(self.facts()), step=trainer.global_step + 1)
        if not problem:
            self._skipped = 0
            return
        if self._skipped == _MOST_SKIPS:
            silent = trainer.global_rank > 0
            raise RunError(f"{problem}, after {self._skipped} skipped steps in a row", silent=silent)
        self._skipped += 1
        say(f"{problem}: step skipped")
        optimizer.zero_grad(set_to_none=True)

    def _problem(self, trainer: Trainer, everyones: Sequence[Sequence[float]], *, step: int) -> str | None:
        found = find_nonfinite(everyones)
        if found is None:
            return None
        rank, index = found
        accumulation = trainer.accumulate_grad_batches
        first = (step - 1) * accumulation
        if index >= 0:
            loss, place = everyones[rank][1 + index], _place(trainer, first + index, first + index, [rank])
            return (
                f"step {step}: the loss of rank {rank} is {loss} in micro-batch {index + 1} of "
                f"{accumulation} ({place})"
            )
        place = _place(trainer, first, first + accumulation - 1, range(trainer.world_size))
        return (
            f"step {step}: the gradient of {first_nonfinite(self._norms) or 'the model'} on rank {rank} "
            f"is not finite, though every loss is ({place})"
        )


def norms_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the norm () of each tensor, on its device; one with an infinity or NaN in it is not finite."""
    return dict(zip(tensors, torch._foreach_norm(list(tensors.values())), strict=True))


def first_nonfinite(norms: Mapping[str, Tensor]) -> str | None:
    """Returns the name of the first norm that is not finite, waiting for the device once; None if all are."""
    numbers = torch.stack([norm.float() for norm in norms.values()]).tolist()
    return next((name for name, norm in zip(norms, numbers, strict=True) if not math.isfinite(norm)), None)


def _place(trainer: Trainer, first: int, last: int, of_ranks: Sequence[int]) -> str:
    data = trainer.datamodule  # type: ignore[attr-defined]
    if hasattr(data, "place_of"):
        place: str = data.place_of(first, last, of_ranks)
        return place
    return f"micro-batches {first} to {last}"


def find_nonfinite(facts: Sequence[Sequence[float]]) -> tuple[int, int] | None:
    """Looks for a number that is none in what ``StepNumbers.facts`` returned on all ranks.

    Returns:
        Rank and micro-batch of the first loss that is not finite; micro-batch -1 if all losses are but the
        gradient is not; None if everything is finite.

    >>> find_nonfinite([[0.5, 3.1, 3.2], [0.5, 3.0, float("nan")]])
    (1, 1)
    """
    for rank, (_, *losses) in enumerate(facts):
        for index, loss in enumerate(losses):
            if not math.isfinite(loss):
                return rank, index
    bad = (rank for rank, (gradient_norm, *_) in enumerate(facts) if not math.isfinite(gradient_norm))
    return next(((rank, -1) for rank in bad), None)
