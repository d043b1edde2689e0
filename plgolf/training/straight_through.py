"""Trains matrices that are rounded as the artifact will round them, at the end of a run."""

from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from plgolf.errors import UserError
from plgolf.model import GPT
from plgolf.model.linear import CastLinear
from plgolf.quantize.rows import Rows
from plgolf.roles import Role, parameter_roles
from plgolf.training.optimizer_settings import factor_of


class RoundedLinear(CastLinear):
    """A linear map whose weight is rounded in training; the gradient passes straight through to the weight.

    ``install`` makes one from a linear map in place, so that parameters and their names stay.
    """

    rows: Rows
    active: Tensor

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        if not self.training:
            return super().forward(x, scale)
        weight = self.weight
        # A tensor switches it, not a flag, for which the compiler would need another graph.
        weight = weight + self.active * (self.rows.rounded(weight.detach()) - weight.detach())
        return F.linear(x, (weight if scale is None else scale[:, None] * weight).to(x.dtype))


def install(gpt: GPT, rows: Rows) -> Tensor:
    """Turns the linear maps of a model into ``RoundedLinear``, but for small gates, whose role is SCALAR.

    Returns:
        A number on the model's device, 0: fill it with 1 to round.
    """
    active = torch.zeros((), device=gpt.embedding.weight.device)
    for name, role in parameter_roles(gpt).items():
        linear = gpt.get_submodule(name.rpartition(".")[0])
        if role in (Role.MATRIX, Role.HEAD) and isinstance(linear, CastLinear):
            linear.__class__ = RoundedLinear
            linear.rows, linear.active = rows, active  # type: ignore[assignment]
    return active


def remove(gpt: GPT) -> None:
    """Turns the linear maps back."""
    for module in gpt.modules():
        if isinstance(module, RoundedLinear):
            module.__class__ = CastLinear  # type: ignore[assignment]
            del module.rows, module.active


class StraightThrough(Callback):
    """Rounds the matrices in the forward pass of training once the learning rates are small (late QAT).

    Straight-through estimator: https://arxiv.org/abs/1308.3432; late: record 2026-03-22. The forward pass of
    every step computes the rounded weights, also of those before, so that one graph is compiled.

    Args:
        rows: bits and limits, which should be those of the export. There must be one limit: a quantile of 1
            or one sigma.
        below: starts at the first step whose factor on the learning rates is smaller.

    Raises:
        UserError: a setting is out of range.
    """

    def __init__(self, rows: Rows = Rows(bits=6, quantiles=[1.0]), below: float = 0.15) -> None:  # noqa: B008
        if not 0 < below <= 2:
            raise UserError(f"below must be above 0 and at most 2, got {below}")
        rows.rounded(torch.zeros(1, 2))  # What it cannot do is refused before the run.
        self.rows, self.below = rows, below
        self.from_step: int | None = None
        """Step from which matrices are rounded; None before it."""
        self._active = torch.zeros(())

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        if stage == "fit":
            self.from_step = None

    def state_dict(self) -> dict[str, Any]:
        return {"from_step": self.from_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        step = state_dict.get("from_step")
        if step is not None and type(step) is not int:
            raise UserError(f"the checkpoint's from_step must be a step, got {step!r:.50}")
        self.from_step = step

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._active = install(pl_module.gpt, self.rows)

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self.from_step is None and factor_of(trainer.optimizers[0]) < self.below:
            self.from_step = trainer.global_step
        if self.from_step is not None:
            self._active.fill_(1.0)
            pl_module.run.notes["rounded_from_step"] = self.from_step

    def teardown(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        remove(pl_module.gpt)
