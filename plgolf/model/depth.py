"""The order of the layers, as plain data: which layer comes when, and whose output is added to its input."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

from plgolf.config import newer
from plgolf.errors import UserError, whole_number

if TYPE_CHECKING:
    from plgolf.model.gpt import GPT, GPTConfig

_MAX_TIMES = 16
NEVER = 2.0
"""Start of a recurrence that no fraction of a run reaches."""


@dataclass(frozen=True, kw_only=True)
class RecurrenceConfig:
    """Settings of neighbouring layers that run several times (https://arxiv.org/abs/1807.03819).

    Args:
        layers: the layers, such as ``3-5``, which run in order and then again.
        times: number of times that they run.
        starts: fraction of the run from which they do so, from 0 to 1; before that they run once. 2: never;
            the file of a model whose training ended before that fraction has it.

    Raises:
        UserError: a value is out of range.
    """

    layers: str
    times: int = 2
    starts: float = 0.0

    def __post_init__(self) -> None:
        whole_number("times", self.times, least=1)
        if self.times > _MAX_TIMES:
            raise UserError(f"times must be at most {_MAX_TIMES}, got {self.times}")
        if not 0 <= self.starts <= 1 and self.starts != NEVER:
            raise UserError(f"starts must be from 0 to 1, or {NEVER:g} for never, got {self.starts}")

    @property
    def phases(self) -> tuple[float, ...]:
        """Fractions of the run at which the order of layers begins and changes."""
        return (0.0, self.starts) if 0 < self.starts <= 1 else (0.0,)

    def order(self, layers: list[int], fraction: float) -> list[int]:
        """Returns the layers in the order in which they run at a fraction of the run."""
        if fraction < self.starts:
            return layers
        from plgolf.model.layers import repeated  # noqa: PLC0415 (few use it)

        return repeated(layers, self.layers, self.times)

    def config_as_it_runs(self, gpt: "GPT") -> "GPTConfig":
        """Returns the architecture of a model whose order of layers stays as it is now, for files."""
        is_last = gpt.visits == visits(gpt.config, 1.0)
        return gpt.config if is_last else replace(gpt.config, recurrence=replace(self, starts=NEVER))


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """Settings of layers whose MLP does not wait for attention (https://arxiv.org/abs/2204.06745).

    Args:
        layers: the layers.
    """

    layers: str = "all"


@dataclass(frozen=True, kw_only=True)
class LanesConfig:
    """Settings of the last layers, in which attention and MLP read two streams (record 2026-04-27).

    Args:
        layers: the layers, such as ``from 8``.
        merge: what enters the head: the ``mean`` of both streams, the stream that ``attention`` or ``mlp``
            has read, or a ``learned`` mix, which begins as the mean.
        writes: attention and MLP write to ``both`` streams what they compute from the old ones (record
            2026-04-27), or ``in_turn``: the MLP reads what attention has written (record 2026-03-31), or each
            to its ``own`` stream (record 2026-04-04).
    """

    layers: str
    merge: Literal["mean", "attention", "mlp", "learned"] = "mean"
    writes: Literal["both", "in_turn", "own"] = newer("both")


class Visit(NamedTuple):
    """One use of a layer.

    Args:
        layer: index of the layer.
        skip: the earlier visit whose output is added to the input of this one; None for none.
    """

    layer: int
    skip: int | None


def visits(config: "GPTConfig", fraction: float = NEVER) -> tuple[Visit, ...]:
    """Returns the uses of layers in order, at a fraction of the run from 0 to 1; by default all uses.

    Skips pair the uses like a U-Net (https://arxiv.org/abs/1505.04597), from the middle outwards. The last of
    an odd number of uses has no skip.

    Raises:
        UserError: the layers of the recurrence are not neighbours, or not layers of the model.
    """
    order, recurrence = list(range(config.num_layers)), config.recurrence
    if recurrence:
        order = recurrence.order(order, fraction)
    half = len(order) // 2
    skips = (*[None] * half, *reversed(range(half)), *[None] * (len(order) % 2))
    return tuple(map(Visit, order, skips))


def phases(config: "GPTConfig") -> tuple[float, ...]:
    """Returns the fractions of the run at which the order of layers begins and changes."""
    return config.recurrence.phases if config.recurrence else (0.0,)
