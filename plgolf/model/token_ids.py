"""Checks of token ids, with one clear error for each mistake."""

from torch import Tensor, int32, int64

from plgolf.errors import UserError

IGNORED = -100
"""Target of a position that does not count, as in ``torch.nn.functional.cross_entropy``."""


def check_ids(name: str, ids: Tensor) -> None:
    """Checks that ids are int64 or, for inputs, int32 (batch, time) and not empty, without waiting."""
    if not isinstance(ids, Tensor):
        raise UserError(f"{name} must be a tensor, got {type(ids).__name__}")
    allowed = (int64, int32) if name == "input_ids" else (int64,)
    if ids.dtype not in allowed or ids.ndim != 2:
        dtype = str(ids.dtype).removeprefix("torch.")
        raise UserError(f"{name} must be int64 (batch, time), got {dtype} {tuple(ids.shape)}")
    if not ids.numel():
        raise UserError(f"{name} must have at least one position, got {tuple(ids.shape)}")


def check_targets(target_ids: Tensor, input_ids: Tensor, reduction: str) -> None:
    """Checks that targets fit the checked inputs, and the reduction of their losses, without waiting."""
    check_ids("target_ids", target_ids)
    if target_ids.shape != input_ids.shape:
        shape, got = tuple(input_ids.shape), tuple(target_ids.shape)
        raise UserError(f"target_ids must have the shape of input_ids {shape}, got {got}")
    if reduction not in ("mean", "none"):
        raise UserError(f"reduction must be mean or none, got {reduction!r}")


def range_error(name: str, ids: Tensor, vocab_size: int) -> UserError:
    """Returns the error for ids that PyTorch has found out of range."""
    allowed = f"from 0 to {vocab_size - 1}"
    if name == "target_ids":
        allowed += f", or {IGNORED} for none"
        ids = ids[ids != IGNORED]
    return UserError(f"{name} must be {allowed}, got {ids.min().item()} to {ids.max().item()}")
