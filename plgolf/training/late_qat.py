"""Trains matrices that are rounded as the artifact will round them, at the end of a run."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from plgolf.errors import UserError, under
from plgolf.model import GPT
from plgolf.model.linear import CastLinear
from plgolf.quantize.rows import Rows
from plgolf.roles import Role, parameter_roles
from plgolf.training.finish.export import ArtifactExport
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


def install(gpt: GPT, rows: Mapping[str, Rows]) -> Tensor:
    """Turns linear maps of a model into ``RoundedLinear``.

    Args:
        gpt: the model.
        rows: how each weight is rounded, by name; tables, and small gates, whose role is SCALAR, are not.

    Returns:
        A number on the model's device, 0: fill it with 1 to round.
    """
    active = torch.zeros((), device=gpt.embedding.weight.device)
    for name, role in parameter_roles(gpt).items():
        linear = gpt.get_submodule(name.rpartition(".")[0])
        if name in rows and role in (Role.MATRIX, Role.HEAD) and isinstance(linear, CastLinear):
            linear.__class__ = RoundedLinear
            linear.rows, linear.active = rows[name], active  # type: ignore[assignment]
    return active


def remove(gpt: GPT) -> None:
    """Turns the linear maps back."""
    for module in gpt.modules():
        if isinstance(module, RoundedLinear):
            module.__class__ = CastLinear  # type: ignore[assignment]
            del module.rows, module.active


class LateQat(Callback):
    """Rounds the matrices in the forward pass of training once the learning rates are small (late QAT).

    Straight-through estimator: https://arxiv.org/abs/1308.3432; late: record 2026-03-22. The forward pass of
    every step computes the rounded weights, also of those before, so that one graph is compiled.

    Each matrix is rounded to the nearest as by its codec in ``export.format``, ``rows`` or ``gptq``, which
    must have one limit: ``quantiles: [1.0]`` or one of ``sigmas``. Tables, and matrices that the format
    keeps, are not rounded.

    Args:
        below: starts at the first step whose factor on the learning rates is smaller.

    Raises:
        UserError: ``below`` is out of range.
    """

    def __init__(self, below: float = 0.15) -> None:
        if not 0 < below <= 2:
            raise UserError(f"below must be above 0 and at most 2, got {below}")
        self.below = below
        self.from_step: int | None = None
        """Step from which matrices are rounded; None before it."""
        self._active = torch.zeros(())
        self._rows: dict[str, Rows] = {}

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        if stage == "fit":
            self.from_step = None
            exports = (c for c in trainer.callbacks if isinstance(c, ArtifactExport))  # type: ignore[attr-defined]
            self._rows = _rows_of(next((export.format for export in exports), None), pl_module.gpt)

    def state_dict(self) -> dict[str, Any]:
        return {"from_step": self.from_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        step = state_dict.get("from_step")
        if step is not None and type(step) is not int:
            raise UserError(f"the checkpoint's from_step must be a step, got {step!r:.50}")
        self.from_step = step

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._active = install(pl_module.gpt, self._rows)

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self.from_step is None and factor_of(trainer.optimizers[0]) < self.below:
            self.from_step = trainer.global_step
        if self.from_step is not None:
            self._active.fill_(1.0)
            pl_module.run.notes["rounded_from_step"] = self.from_step

    def teardown(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        remove(pl_module.gpt)


def _rows_of(form: Any, gpt: GPT) -> dict[str, Rows]:
    """Returns how a format rounds each tensor, by name, but for those that it keeps."""
    codecs = form.codecs(gpt).items() if hasattr(form, "codecs") else ()
    rows = {
        name: codec if isinstance(codec, Rows) else getattr(codec, "rows", None) for name, codec in codecs
    }
    found = {name: each for name, each in rows.items() if each is not None}
    if not found:
        raise UserError(
            "export.format must have a codec with rows, by which matrices are rounded in training"
        )
    roles = parameter_roles(gpt)
    for name, each in found.items():
        if roles[name] in (Role.MATRIX, Role.HEAD):
            with under(f"export.format.quantize: {name}"):
                each.rounded(torch.zeros(1, 2))  # What it cannot do is refused before the run.
    return found
