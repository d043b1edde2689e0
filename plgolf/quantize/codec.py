"""What a codec is, and the one that keeps floating-point values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from plgolf.errors import UserError


class Plane(NamedTuple):
    """Dtype and shape of an array that a codec stores."""

    dtype: torch.dtype
    shape: tuple[int, ...]


class Codec(Protocol):
    """What a file has of a tensor; pure functions of their arguments and the codec's settings."""

    def planes(self, shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, Plane]:
        """Returns the arrays, by name, that a tensor of this shape and dtype becomes."""

    def label(self, dtype: torch.dtype) -> str:
        """Returns the name of the numbers that a tensor of this dtype becomes, such as ``int6``."""

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


@runtime_checkable
class PlainCodec(Codec, Protocol):
    """A codec that needs a tensor alone."""

    def encode(self, values: Tensor) -> dict[str, Tensor]:
        """Turns a CPU tensor into the arrays of ``planes``.

        Raises:
            UserError: a value is not finite or cannot be stored.
        """


@runtime_checkable
class CalibratedCodec(Codec, Protocol):
    """A codec that also needs the inputs of a matrix."""

    def encode_all(self, values: Sequence[Tensor], hessians: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Turns matrices into the arrays of ``planes``, but for those of a low-rank correction.

        Args:
            values: CPU matrices of one shape (rows, columns).
            hessians: sums of x x^T over their inputs x, float32 (columns, columns), on any one device.

        Raises:
            UserError: a value is not finite or cannot be stored.
        """


@dataclass(frozen=True, kw_only=True)
class Raw:
    """Keeps values as floating-point numbers.

    Args:
        dtype: dtype that they are rounded to; ``own`` for that of the tensor.
    """

    dtype: Literal["own", "float16", "bfloat16"] = "own"

    def planes(self, shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, Plane]:
        return {"values": Plane(self._stored(dtype), shape)}

    def label(self, dtype: torch.dtype) -> str:
        return str(self._stored(dtype)).removeprefix("torch.")

    def _stored(self, dtype: torch.dtype) -> torch.dtype:
        return dtype if self.dtype == "own" else getattr(torch, self.dtype)

    def encode(self, values: Tensor) -> dict[str, Tensor]:
        rounded = values.to(self._stored(values.dtype))
        check_finite(rounded)
        return {"values": rounded}

    def decode(self, planes: Mapping[str, Tensor], shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        check_finite(planes["values"])
        return planes["values"].to(dtype, copy=True).view(shape)

    def largest(self, planes: Mapping[str, Tensor]) -> Tensor | None:  # noqa: ARG002
        return None


def check_finite(values: Tensor) -> None:
    """Raises a UserError if a value is NaN or infinite."""
    if not torch.isfinite(values).all():
        raise UserError("must be finite, got NaN or infinity")
