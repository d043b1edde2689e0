"""Compares a checkpoint's settings and data with those of the run that continues from it."""

from collections.abc import Mapping, Sequence
from typing import Any

from plgolf.config import config_from_dict, config_to_dict
from plgolf.data.streams import StreamConfig
from plgolf.errors import UserError
from plgolf.model import GPTConfig


def check_same(saved: Mapping[str, Any], ours: Mapping[str, Any], *, allowed: Sequence[str]) -> None:
    """Raises a UserError with both values where a checkpoint and the run that continues from it differ.

    Args:
        saved: nested values of the checkpoint.
        ours: nested values of this run.
        allowed: dotted names that may differ, including everything below them.
    """
    before, now = flat(saved), flat(ours)
    for name in dict.fromkeys([*now, *before]):
        if any(name == free or name.startswith(f"{free}.") for free in allowed):
            continue
        then, here = before.get(name), now.get(name)
        if type(then) is not type(here) or then != here:
            raise UserError(
                f"{name} must be the checkpoint's {short(then)}, got {short(here)} "
                f"(--checkpoint.allow_changed=[{name}] continues anyway)"
            )


def short(value: Any) -> str:
    """Formats a value of a checkpoint on one line, cut to 200 characters."""
    return " ".join(f"{value}"[:200].split())


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the leaves of nested values by dotted name."""
    leaves: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        leaves |= flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return leaves


def check_same_model(checkpoint: Mapping[str, Any], config: GPTConfig, *, allowed: Sequence[str]) -> None:
    """Raises a UserError with both values if a checkpoint has another architecture."""
    saved = checkpoint.get("gpt_config")
    if not isinstance(saved, Mapping):
        raise UserError("is not a checkpoint of plgolf: it has no gpt_config")
    # As a configuration of today: a field that is newer than the checkpoint has its default.
    try:
        before = config_to_dict(config_from_dict(GPTConfig, saved, where="model.gpt"))
    except UserError as error:
        raise UserError(f"the checkpoint's gpt_config is malformed: {short(error)}") from error
    check_same({"model": {"gpt": before}}, {"model": {"gpt": config_to_dict(config)}}, allowed=allowed)


def check_same_data(saved: Any, ours: Mapping[str, Any], *, allowed: Sequence[str]) -> None:
    """Raises a UserError with both values if a checkpoint was trained on other data than ours."""
    if not isinstance(saved, Mapping):
        raise UserError(f"the checkpoint's ShardDataModule must be settings by name, got {short(saved)}")
    saved = {"stream": config_to_dict(StreamConfig()), **saved}  # Earlier versions had no other.
    check_same({"data": saved}, {"data": ours}, allowed=allowed)


def check_same_tokenizer(saved: Mapping[str, Any], sha256: str, *, allowed: Sequence[str]) -> None:
    """Raises a UserError with both hashes if a file to score was trained with another tokenizer."""
    if saved.get("tokenizer") is not None:
        ours = {"data": {"tokenizer": sha256}}
        check_same({"data": {"tokenizer": saved["tokenizer"]}}, ours, allowed=allowed)
