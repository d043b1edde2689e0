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
        decay: weights that decay: ``all``, or ``cautious`` for those that the step moves towards 0 anyway.
        normalize: ``rows`` to divide the rows of an orthogonalised update by their root mean squares over
            recent steps (NorMuon); ``shorter`` for the columns instead if there are more of them.
        normalize_beta: decay of these mean squares.
        heads: number of attention heads whose rows of queries, keys and values are orthogonalised as a matrix
            of their own; null for all heads.
        momentum_dtype: dtype of gradients and momentum.
        mixture: moving averages of gradients that replace the momentum: decay, weight, and weight at the end
            of each; the schedule ``mixture`` leads from the first weights, at 1, to the last, at 0.
        mixture_start: last step, from 0, with the momentum itself.

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
    decay: Literal["all", "cautious"] = "all"
    normalize: Literal["none", "rows", "shorter"] = "none"
    normalize_beta: float = 0.95
    heads: int | None = None
    momentum_dtype: Literal["float32", "bfloat16"] = "float32"
    mixture: tuple[tuple[float, float, float], ...] = ()
    mixture_start: int = 1000

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
        if self.normalize != "none":
            from plgolf.optim.normalize import check_normalize  # noqa: PLC0415 (packed where it is used)

            check_normalize(self.normalize)
        _check_share("normalize_beta", self.normalize_beta)
        if self.heads is not None:
            whole_number("heads", self.heads, least=1)
        if self.mixture:
            from plgolf.optim.momentum import check_momentum  # noqa: PLC0415 (packed where it is used)

            check_momentum(self)
        whole_number("mixture_start", self.mixture_start, least=0)


@dataclass(frozen=True, kw_only=True)
class AdamConfig:
    """Adam's settings for one of the other roles (https://arxiv.org/abs/1412.6980).

    Args:
        lr: base learning rate.
        betas: decay of the first and second moments.
        eps: added to the square root of the second moment.
        weight_decay: share of a weight that a step takes away, times the learning rate of the step
            (https://arxiv.org/abs/1711.05101).
        decay: weights that decay: ``all``, or ``cautious`` for those that the step moves towards 0 anyway.
        bias_correction: False for moments as they are, smaller in the first steps.

    Raises:
        UserError: a value is out of range.
    """

    lr: float
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.0
    decay: Literal["all", "cautious"] = "all"
    bias_correction: bool = True

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
