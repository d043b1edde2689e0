"""The Lightning toolkit for parameter golf: small language models within a byte and a time budget."""

from plgolf.artifact import load_artifact
from plgolf.metrics import BitsPerByte
from plgolf.model import GPT, GPTConfig
from plgolf.optim import MuonAdam
from plgolf.version import __version__

__all__ = ["GPT", "BitsPerByte", "GPTConfig", "MuonAdam", "__version__", "load_artifact"]
