"""The old name of ``plgolf.evaluate``, which says so."""

from typing import Any


def __getattr__(name: str) -> Any:
    if name in ("BitsPerByte", "bits_per_byte"):
        raise ImportError(f"plgolf.metrics.{name} must be imported as plgolf.evaluate.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
