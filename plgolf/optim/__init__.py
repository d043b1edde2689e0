"""The optimizer and the schedules."""

from plgolf.optim.config import AdamConfig, MuonConfig
from plgolf.optim.muon_adam import MuonAdam
from plgolf.optim.schedule import Constant, Schedule, Warmdown

__all__ = ["AdamConfig", "Constant", "MuonAdam", "MuonConfig", "Schedule", "Warmdown"]
