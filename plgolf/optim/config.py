"""Settings of the optimizer by role of the parameters."""

import math
from dataclasses import dataclass
from typing import Literal

from plgolf.errors import UserError, whole_number
from plgolf.hardware import resolve_dtype


@dataclass(frozen=True, kw_only=True)
class MuonConfig:
    """Muon's settings for the matrices (https://kellerjordan.github.io/posts/muon/).

    Args:
        lr: base learning rate.
        momentum: Nesterov momentum after its warm-up.
        momentum_start: momentum of the first step.
        momentum_warmup_steps: number of steps over which momentum rises linearly; 0 for none.
        newton_schulz_steps: number of iterations of the orthogonalisation.
        newton_schulz_dtype: dtype of these iterations; ``auto`` for the dtype that is fast on this machine.
        polynomial: polynomial of these iterations, from ``plgolf.optim.polynomials``: the same in each, or
            one of its own for each of at most 5, which brings singular values nearer to 1.
        equalize: ``rows`` to divide the rows of an update by their norms before these iterations.
        weight_decay: share of a weight that a step takes away, times the learning rate of the step.

    Raises:
        UserError: a value is out of range.
    """

    lr: float = 0.02
    momentum: float = 0.99
    momentum_start: float = 0.92
    momentum_warmup_steps: int = 1500
    newton_schulz_steps: int = 5
    newton_schulz_dtype: Literal["bfloat16", "float32", "auto"] = "bfloat16"
    polynomial: Literal["quintic", "polar_express"] = "quintic"
    equalize: Literal["none", "rows"] = "none"
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check_size("lr", self.lr)
        _check_size("weight_decay", self.weight_decay)
        _check_share("momentum", self.momentum)
        _check_share("momentum_start", self.momentum_start)
        whole_number("momentum_warmup_steps", self.momentum_warmup_steps, least=0)
        whole_number("newton_schulz_steps", self.newton_schulz_steps, least=1)
        dtype = resolve_dtype("newton_schulz_dtype", self.newton_schulz_dtype)
        object.__setattr__(self, "newton_schulz_dtype", dtype)
        if self.polynomial != "quintic":
            from plgolf.optim.polynomials import polynomial_settings  # noqa: PLC0415 (packed where it is used)

            polynomial_settings(self.polynomial, self.newton_schulz_steps)
        if self.equalize != "none":
            from plgolf.optim.equalize import check_equalize  # noqa: PLC0415 (packed where it is used)

            check_equalize(self.equalize)


@dataclass(frozen=True, kw_only=True)
class AdamConfig:
    """Adam's settings for one of the other roles (https://arxiv.org/abs/1412.6980).

    Args:
        lr: base learning rate.
        betas: decay of the first and second moments.
        eps: added to the square root of the second moment.
        weight_decay: share of a weight that a step takes away, times the learning rate of the step
            (https://arxiv.org/abs/1711.05101).

    Raises:
        UserError: a value is out of range.
    """

    lr: float
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check_size("lr", self.lr)
        for i, beta in enumerate(self.betas):
            _check_share(f"betas.{i}", beta)
        _check_size("eps", self.eps)
        _check_size("weight_decay", self.weight_decay)


def _check_size(name: str, value: float) -> None:
    if not 0 <= value < math.inf:
        raise UserError(f"{name} must be finite and at least 0, got {value}")


def _check_share(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise UserError(f"{name} must be at least 0 and below 1, got {value}")
