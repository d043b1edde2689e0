"""The old name of ``plgolf.reference``."""

from typing import Any


def __getattr__(name: str) -> Any:
    if "reference" in name or name in ("gpt_config_from_weights", "is_control_name", "read_artifact_dict"):
        raise ImportError(f"plgolf.interop.{name} must be imported as plgolf.reference.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
