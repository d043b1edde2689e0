"""The names of ``plgolf.reference``, under those of its old module."""

from typing import Any

from plgolf import reference


def __getattr__(name: str) -> Any:
    if name in reference.__all__:
        return getattr(reference, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
