"""Checks settings of ``plgolf fit`` and ``plgolf validate`` before anything is built or written."""

from enum import Enum
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from plgolf.errors import UserError

_MAX_SEED = 2**32 - 1
_FOLDERS = ("trainer.default_root_dir", "checkpoint.dir", "export.dir")


def check_settings(settings: Namespace) -> None:
    """Raises a UserError if a setting of a subcommand cannot work."""
    seed, trainer = settings.seed_everything, settings.trainer
    if type(seed) is int and not 0 <= seed <= _MAX_SEED:
        raise UserError(f"seed_everything must be from 0 to {_MAX_SEED}, got {seed}")
    if trainer.barebones:
        raise UserError(
            "trainer.barebones must be false, since a run needs its checkpoints, logs and validations; "
            "benchmarks/ measures bare steps"
        )
    if trainer.limit_val_batches == 0:
        raise UserError(
            "trainer.limit_val_batches must leave something to score, got 0; null scores everything"
        )
    _check_strategy(trainer.strategy)
    for key in _FOLDERS:
        _check_folder(key, settings.get(key))


def _check_strategy(strategy: Any) -> None:
    name, method = strategy, "popen"
    if isinstance(strategy, Namespace):
        name = strategy.class_path
        method = strategy.get("init_args.start_method") or method
    if str(name).startswith(("ddp_spawn", "ddp_fork", "ddp_notebook")) or method != "popen":
        got = name if method == "popen" else f"start_method {method}"
        raise UserError(
            f"trainer.strategy must start each rank as a command of its own: auto or ddp, got {got}"
        )


def _check_folder(key: str, folder: str | None) -> None:
    if folder is None:
        return
    path = next(path for path in (Path(folder), *Path(folder).parents) if path.exists())
    if not path.is_dir():
        raise UserError(f"{key} must be a folder, got {folder}: {path} is a file")


def with_plain_enums(value: Any) -> Any:
    """Replaces enumeration members, which YAML cannot hold, by their values; changes containers in place."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Namespace):
        vars(value).update({name: with_plain_enums(child) for name, child in vars(value).items()})
    elif isinstance(value, dict):
        value.update({name: with_plain_enums(child) for name, child in value.items()})
    elif isinstance(value, list):
        value[:] = [with_plain_enums(child) for child in value]
    return value
