"""The Lightning toolkit for parameter golf: small language models within a byte and a time budget."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from plgolf.version import __version__

if TYPE_CHECKING:
    from plgolf.evaluate import BitsPerByte
    from plgolf.generation.language_model import LanguageModel, load_artifact
    from plgolf.model import GPT, GPTConfig
    from plgolf.optim import MuonAdam

__all__ = ["GPT", "BitsPerByte", "GPTConfig", "LanguageModel", "MuonAdam", "__version__", "load_artifact"]

_HOMES = {
    "GPT": "plgolf.model",
    "BitsPerByte": "plgolf.evaluate",
    "GPTConfig": "plgolf.model",
    "LanguageModel": "plgolf.generation.language_model",
    "MuonAdam": "plgolf.optim",
    "load_artifact": "plgolf.generation.language_model",
}


def __getattr__(name: str) -> Any:
    # On demand: importing torch takes seconds, and commands such as `plgolf data` do not need it.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
