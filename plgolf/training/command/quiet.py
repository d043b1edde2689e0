"""What the libraries say to their own developers, kept off the console."""

import logging
import warnings

import torch


def quiet_libraries() -> None:
    """Silences notices that nobody who trains can do anything about."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # What a callback or a profiler is asked to say: these have nothing to say unasked.
    for name in ("callbacks", "profilers"):
        logging.getLogger(f"lightning.pytorch.{name}").setLevel(logging.INFO)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*broadcast_buffers", category=FutureWarning)
    # Lightning makes DDP on a stream of its own; torch tells of that from 2.10 on.
    warn = getattr(torch.autograd.graph, "set_warn_on_accumulate_grad_stream_mismatch", None)
    if warn is not None:
        warn(False)
    # Of sharded layers, which there are none of.
    warnings.filterwarnings("ignore", message="You're using the WeightAveraging callback with a model")
    # plgolf's own metrics are the same on every rank before they are logged.
    warnings.filterwarnings("ignore", message=r"It is recommended to use `self.log\('(train|val)/")
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
    warnings.filterwarnings("ignore", message=r"(?s).*deprecated in v4\.", category=DeprecationWarning)
