"""What a flag asks of a model and its file decides otherwise."""

from collections.abc import Mapping, Sequence
from typing import Any

from jsonargparse import Namespace

from plgolf.config import config_to_dict
from plgolf.errors import UserError
from plgolf.model import GPTConfig

_MODEL = "model.gpt."


def check_flags_agree(flags: Sequence[str], asked: Namespace, saved: GPTConfig, path: str) -> None:
    """Raises a UserError if a flag asks for another architecture than the file to score has.

    A recipe may describe another model, since one recipe serves several files; a flag is a request.

    Args:
        flags: the command line without configuration files.
        asked: the settings below ``model.gpt``.
        saved: the file's architecture.
        path: the file.
    """
    wanted, given = _flat(asked.as_dict()), _flat(config_to_dict(saved))
    for flag in flags:
        name = flag.partition("=")[0].removeprefix("--")
        if not name.startswith(_MODEL):
            continue
        key = name.removeprefix(_MODEL)
        for leaf in (leaf for leaf in wanted if leaf == key or leaf.startswith(f"{key}.")):
            # ``auto`` asks for whatever is there.
            if wanted[leaf] not in (given.get(leaf), "auto"):
                raise UserError(
                    f"{_MODEL}{leaf} must be left alone, {path} decides ({given.get(leaf)}), "
                    f"got {wanted[leaf]}"
                )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in values.items():
        below = isinstance(value, Mapping)
        flat.update(_flat(value, f"{prefix}{name}.") if below else {f"{prefix}{name}": value})
    return flat
