"""Finds what a misspelt key or path was probably meant to be."""

import difflib
from collections.abc import Iterable
from pathlib import Path

_MAX_SUGGESTIONS = 3
_CLEARLY_MEANT = 0.9


def nearest(key: str, known: Iterable[str]) -> list[str]:
    """Returns the keys that were probably meant: the same name in another group, or a misspelt one."""
    known = list(known)

    def named(names: Iterable[str]) -> list[str]:
        found = [other for other in known if other.rpartition(".")[2] in names]
        near = sorted(found, key=lambda other: -difflib.SequenceMatcher(None, key, other).ratio())
        clear = near and difflib.SequenceMatcher(None, key, near[0]).ratio() > _CLEARLY_MEANT
        return near[: 1 if clear else _MAX_SUGGESTIONS]

    name = key.rpartition(".")[2]
    names = {other.rpartition(".")[2] for other in known}
    return (
        named([name])
        or difflib.get_close_matches(key, known, n=1, cutoff=0.8)
        or named(difflib.get_close_matches(name, names, n=1, cutoff=0.75))
    )


def did_you_mean(near: Iterable[str]) -> str:
    """Returns the question in brackets, or nothing."""
    words = " or ".join(near)
    return f" (did you mean {words}?)" if words else ""


def missing_recipe(path: str) -> str:
    """Returns the error for a recipe that does not exist, with the file that was probably meant."""
    files = {*Path(path).parent.glob("*.y*ml"), *Path("configs").rglob("*.y*ml")}
    there = [str(file) for file in sorted(files)]
    by_name = {Path(file).stem: file for file in reversed(there)}
    near = difflib.get_close_matches(path, there, n=1, cutoff=0.85)
    near = near or [by_name[s] for s in difflib.get_close_matches(Path(path).stem, by_name, n=1)]
    return f"{path}: no such file (-c){did_you_mean(near)}"
