"""Polynomials that move singular values towards 1, by name; imported where a recipe names one.

``polar_express``: https://arxiv.org/abs/2505.16932, with coefficients of its own for each iteration, as in
https://github.com/openai/parameter-golf/pull/1855.
"""

from typing import Any, NamedTuple

from plgolf.errors import UserError
from plgolf.optim.orthogonalize import QUINTIC


class Polynomial(NamedTuple):
    """A polynomial a x + b x^3 + c x^5 of singular values, repeated.

    Args:
        coefficients: a, b, c of each iteration; a single one is for all iterations.
        square_first: how products are grouped, for ``orthogonalize``.
    """

    coefficients: tuple[tuple[float, float, float], ...]
    square_first: bool = False


# fmt: off
POLYNOMIALS = {
    "quintic": Polynomial(QUINTIC),
    "polar_express": Polynomial((
        (8.156554524902461, -22.48329292557795, 15.878769915207462),
        (4.042929935166739, -2.808917465908714, 0.5000178451051316),
        (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
        (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
        (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
    ), square_first=True),
}
# fmt: on


def polynomial_settings(name: str, steps: int) -> dict[str, Any]:
    """Returns the arguments of ``orthogonalize`` for a polynomial.

    Raises:
        UserError: the table does not have it, or it has fewer iterations.
    """
    if name not in POLYNOMIALS:
        raise UserError(f"polynomial must be one of {', '.join(POLYNOMIALS)}, got {name!r:.100}")
    found = POLYNOMIALS[name]
    if 1 < len(found.coefficients) < steps:
        raise UserError(
            f"newton_schulz_steps must be at most {len(found.coefficients)} with {name}, got {steps}"
        )
    return found._asdict()
