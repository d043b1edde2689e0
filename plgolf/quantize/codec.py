"""What a codec is, and the two that keep values as they are or round them to float16."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from plgolf.errors import UserError


class Plane(NamedTuple):
    """Dtype and shape of an array that a codec stores."""

    dtype: torch.dtype
    shape: tuple[int, ...]


class Codec(Protocol):
    """Turns a tensor into arrays and back; pure functions of their arguments and the codec's settings."""

    def planes(self, shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, Plane]:
        """Returns the arrays, by name, that a tensor of this shape and dtype becomes."""

    def label(self, dtype: torch.dtype) -> str:
        """Returns the name of the numbers that a tensor of this dtype becomes, such as ``int6``."""

    def encode(self, values: Tensor) -> dict[str, Tensor]:
        """Turns a CPU tensor into the arrays of ``planes``.

        Raises:
            UserError: a value is not finite or cannot be stored.
        """

    def decode(self, planes: Mapping[str, Tensor], shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Restores a tensor; nothing that it returns shares memory with the arrays.

        Args:
            planes: arrays with the dtypes and shapes of ``planes``; their values may be anything.
            shape: shape of the tensor.
            dtype: dtype of the tensor.

        Raises:
            UserError: a value is out of range.
        """

    def largest(self, planes: Mapping[str, Tensor]) -> Tensor | None:
        """Returns the magnitudes (rows, 1) above which values were clipped; None if none were."""


@dataclass(frozen=True, kw_only=True)
class Raw:
    """Keeps the values and their dtype."""

    def planes(self, shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, Plane]:
        return {"values": Plane(dtype, shape)}

    def label(self, dtype: torch.dtype) -> str:
        return str(dtype).removeprefix("torch.")

    def encode(self, values: Tensor) -> dict[str, Tensor]:
        check_finite(values)
        return {"values": values}

    def decode(self, planes: Mapping[str, Tensor], shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        check_finite(planes["values"])
        return planes["values"].to(dtype, copy=True).view(shape)

    def largest(self, planes: Mapping[str, Tensor]) -> Tensor | None:  # noqa: ARG002
        return None


@dataclass(frozen=True, kw_only=True)
class Float16(Raw):
    """Rounds values to float16."""

    def planes(self, shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, Plane]:  # noqa: ARG002
        return {"values": Plane(torch.float16, shape)}

    def label(self, dtype: torch.dtype) -> str:  # noqa: ARG002
        return "float16"

    def encode(self, values: Tensor) -> dict[str, Tensor]:
        return super().encode(values.to(torch.float16))


def check_finite(values: Tensor) -> None:
    """Raises a UserError if a value is NaN or infinite."""
    if not torch.isfinite(values).all():
        raise UserError("must be finite, got NaN or infinity")
