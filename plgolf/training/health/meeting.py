"""Prints what a run waits for until all its processes have met."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist
from lightning.pytorch import Trainer

_EVERY_SECONDS = 30.0


@contextmanager
def announce_waiting(trainer: Trainer) -> Iterator[None]:
    """Prints every half minute that processes have not met yet, once on each machine, until they have.

    For several machines the first line comes at once.
    """
    if trainer.world_size == 1 or trainer.local_rank > 0:
        yield
        return
    done = threading.Event()
    delay = 0.0 if trainer.num_nodes > 1 else _EVERY_SECONDS

    def announce() -> None:
        waited = done.wait(delay)
        while not waited and not dist.is_initialized():
            sys.stderr.write(f"plgolf: {_awaited(trainer)}\n")
            sys.stderr.flush()
            waited = done.wait(_EVERY_SECONDS)

    threading.Thread(target=announce, name="announce-waiting", daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _awaited(trainer: Trainer) -> str:
    environment: Any = trainer.strategy.cluster_environment  # type: ignore[attr-defined]
    place, nodes = f"at {environment.main_address}:{environment.main_port}", trainer.num_nodes
    if nodes > 1:
        return (
            f"waiting for {nodes - 1} of {nodes} machines (trainer.num_nodes) {place}; "
            "for this machine alone set --trainer.num_nodes=1"
        )
    return f"waiting for the other {trainer.world_size - 1} of {trainer.world_size} processes {place}"
