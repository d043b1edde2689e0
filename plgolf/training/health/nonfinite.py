"""Losses and gradients that are no numbers: found without waiting for a device, named, stopped or skipped."""

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

_MOST_SKIPS = 10
"""Steps in a row that may be skipped: beyond, it is not the data."""


class Numbers(NamedTuple):
    """Of one optimizer step, on the device."""

    losses: list[Tensor]
    norms: dict[str, Tensor]

    @property
    def width(self) -> int:
        return len(self.norms) + len(self.losses)

    def of(self, facts: Sequence[float]) -> list[float]:
        """Returns the norm of the whole gradient and the losses, out of ``StepNumbers.facts``."""
        return [math.hypot(*facts[: len(self.norms)]), *facts[len(self.norms) :]]


class StepNumbers:
    """The losses of a step's micro-batches and the norm of its gradient, on the device until somebody asks.

    Nothing is read while steps go through, so that a GPU is never waited for.

    Args:
        params: the model's, by name.
        stop: reading raises a RunError on every rank if a step has a number that is none.
    """

    def __init__(self, params: Mapping[str, nn.Parameter], *, stop: bool = True) -> None:
        self._params, self._stop = params, stop
        self._now = Numbers([], {})
        self._unread: list[Numbers] = []
        self.has_ended = True
        """Whether the step that began last has ended, too."""
        self._skipped = 0

    def begin(self) -> None:
        """Begins a step."""
        self._now, self.has_ended = Numbers([], {}), False

    @property
    def has_gradients(self) -> bool:
        """Whether the step has gone as far as its gradients."""
        return bool(self._now.norms)

    def see_loss(self, loss: Tensor) -> None:
        """Takes the loss () of a micro-batch."""
        self._now.losses.append(loss.detach())

    def see_gradients(self) -> None:
        """Takes the norm of every gradient; that of one with an infinity or NaN in it is not finite."""
        grads = {name: grad for name, p in self._params.items() if (grad := p.grad) is not None}
        self._now.norms.update(norms_of(grads))

    def end(self) -> None:
        """Keeps the step's numbers for ``facts``."""
        self._unread.append(self._now)
        self.has_ended = True

    def take(self) -> list[Numbers]:
        """Returns the numbers of the steps that nobody has read, for ``facts`` and ``read``.

        They are gone from here before ranks share them: whoever saves a checkpoint meanwhile, in a signal's
        handler, must not do it again.
        """
        unread, self._unread = self._unread, []
        return unread

    def facts(self, steps: Sequence[Numbers]) -> Tensor:
        """Returns the norms and the losses of each step, one after the other, float32 (n,)."""
        facts = [fact for step in steps for fact in (*step.norms.values(), *step.losses)]
        if facts:
            return torch.stack(facts).float()
        device = next((p.device for p in self._params.values()), None)
        return torch.empty(0, device=device)  # A module may skip each batch of a step.

    def read_the_rest(self, trainer: Trainer) -> None:
        """Has the ranks share what nobody has read yet; each must call it after the same step."""
        unread = self.take()
        if unread:
            self.read(trainer, unread, all_gather_floats(self.facts(unread)))

    def read(
        self, trainer: Trainer, unread: Sequence[Numbers], everyones: Sequence[Sequence[float]]
    ) -> tuple[float, float]:
        """Looks at the numbers of all ranks.

        Args:
            trainer: says which step was the last of them.
            unread: this rank's.
            everyones: the ``facts`` of each rank.

        Returns:
            The last step's mean loss, and the norm of its gradient.
        """
        if self._stop and not math.isfinite(sum(map(sum, everyones))):
            end = 0
            for i, numbers in enumerate(unread):
                start, end = end, end + numbers.width
                ranks = [numbers.of(row[start:end]) for row in everyones]
                problem = _problem(trainer, numbers, ranks, step=trainer.global_step + 1 - len(unread) + i)
                if problem:
                    silent = trainer.global_rank > 0
                    raise RunError(f"{problem}; checkpoints are of earlier steps", silent=silent)
        last = [unread[-1].of(row[len(row) - unread[-1].width :]) for row in everyones]
        losses = [loss for row in last for loss in row[1:]]
        return sum(losses) / len(losses) if losses else math.nan, last[0][0]

    def skip_if_nonfinite(self, trainer: Trainer, optimizer: Optimizer) -> None:
        """Takes the gradients away if a number is none, so that the optimizer has nothing to do.

        Args:
            trainer: says which step is about to be made.
            optimizer: the one to make it.

        Raises:
            RunError: it would be the eleventh in a row.
        """
        everyones = [self._now.of(facts) for facts in all_gather_floats(self.facts([self._now]))]
        problem = _problem(trainer, self._now, everyones, step=trainer.global_step + 1)
        if not problem:
            self._skipped = 0
            return
        if self._skipped == _MOST_SKIPS:
            silent = trainer.global_rank > 0
            raise RunError(f"{problem}, after {self._skipped} skipped steps in a row", silent=silent)
        self._skipped += 1
        say(f"{problem}: step skipped")
        optimizer.zero_grad(set_to_none=True)


def _problem(
    trainer: Trainer, numbers: Numbers, everyones: Sequence[Sequence[float]], *, step: int
) -> str | None:
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
        f"step {step}: the gradient of {first_nonfinite(numbers.norms) or 'the model'} on rank {rank} "
        f"is not finite, though every loss is ({place})"
    )


def norms_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the norm () of each tensor, on its device; one with an infinity or NaN in it is not finite."""
    if not tensors:
        return {}
    if next(iter(tensors.values())).is_cuda:
        return fused_norms(tensors)
    return dict(zip(tensors, torch._foreach_norm(list(tensors.values())), strict=True))


def fused_norms(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Does the same in a few kernels for all tensors of a dtype: in a mixture a GPU takes tensors one by one.

    All norms are float32 or wider, so that to stack them takes few kernels, too.
    """
    norms: dict[str, Tensor] = {}
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors.values()):
        alike = {name: tensor for name, tensor in tensors.items() if tensor.dtype == dtype}
        wide = torch.promote_types(dtype, torch.float32)
        norms.update(zip(alike, torch._foreach_norm(list(alike.values()), 2, wide), strict=True))
    return {name: norms[name] for name in tensors}


def first_nonfinite(norms: Mapping[str, Tensor]) -> str | None:
    """Returns the name of the first norm that is not finite, waiting for the device once; None if all are."""
    numbers = torch.stack([norm.float() for norm in norms.values()]).tolist()
    return next((name for name, norm in zip(norms, numbers, strict=True) if not math.isfinite(norm)), None)


@torch.no_grad()
def check_finite(trainer: Trainer) -> None:
    """Raises a RunError on every rank if a weight is no number: losses tell of it only a step later."""
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


def find_nonfinite(facts: Sequence[Sequence[float]]) -> tuple[int, int] | None:
    """Looks for a number that is none in the facts of a step on all ranks: norm of the gradient, losses.

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
