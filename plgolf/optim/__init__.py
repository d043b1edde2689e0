"""The optimizer and the schedules."""

from typing import Any

from plgolf.optim.config import AdamConfig, MuonConfig
from plgolf.optim.muon_adam import MuonAdam
from plgolf.optim.schedule import Constant, Schedule, Warmdown

__all__ = ["AdamConfig", "Constant", "MuonAdam", "MuonConfig", "Schedule", "Warmdown"]


def __getattr__(name: str) -> Any:
    if name == "Progress":
        raise ImportError("plgolf.optim.Progress must be imported as plgolf.progress.RunProgress")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
