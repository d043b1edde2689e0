"""The optimizer and the schedules."""

from plgolf.optim.muon_adam import AdamConfig, MuonAdam, MuonConfig
from plgolf.optim.schedule import Constant, Progress, Schedule, Warmdown

__all__ = ["AdamConfig", "Constant", "MuonAdam", "MuonConfig", "Progress", "Schedule", "Warmdown"]
