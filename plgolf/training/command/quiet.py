"""Keeps messages of libraries to their developers off the console."""

import logging
import warnings

import torch


def quiet_libraries() -> None:
    """Silences notices that a user can do nothing about."""
    for name in ("pytorch", "fabric"):
        logging.getLogger(f"lightning.{name}").setLevel(logging.WARNING)
    # Callbacks and profilers log only what a user asked for.
    for name in ("callbacks", "profilers"):
        logging.getLogger(f"lightning.pytorch.{name}").setLevel(logging.INFO)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*broadcast_buffers", category=FutureWarning)
    # Lightning builds DDP on its own stream; torch warns about that since 2.10.
    warn = getattr(torch.autograd.graph, "set_warn_on_accumulate_grad_stream_mismatch", None)
    if warn is not None:
        warn(False)
    # It is about sharded layers, which plgolf does not have.
    warnings.filterwarnings("ignore", message="You're using the WeightAveraging callback with a model")
    # plgolf's own metrics are the same on every rank before they are logged.
    warnings.filterwarnings("ignore", message=r"It is recommended to use `self.log\('(train|val)/")
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
    warnings.filterwarnings("ignore", message=r"(?s).*deprecated in v4\.", category=DeprecationWarning)
