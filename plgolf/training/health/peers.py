"""Ends a run on every rank when one rank is gone, where the others would wait for it forever."""

import os
import threading
import time
from typing import TYPE_CHECKING

from lightning.pytorch import Callback, LightningModule, Trainer

from plgolf.errors import RunError, StoppedBySignal, UserError

if TYPE_CHECKING:
    from plgolf.training.health.watch import Watch

BEAT_SECONDS = 1.0
GRACE_SECONDS = 10.0
"""Time for a rank to end in good order once another is gone, and for rank 0 to wait for the others."""


class PeerWatch(Callback):
    """Ends the run on every rank when one of them is gone: killed, frozen, or ended by an error of its own.

    Every rank keeps a connection to rank 0, separate from those of the collectives, which hang. If a process
    dies, the connection closes; if it freezes or its machine is lost, its heartbeats stop. Requests to a
    ``TCPStore`` have no timeout that holds while rank 0 is frozen.

    Args:
        timeout_seconds: a rank that is silent this long is gone; the rest end within 10 seconds more.
    """

    def __init__(self, timeout_seconds: float = 30.0) -> None:
        if not timeout_seconds > 2 * BEAT_SECONDS:
            raise UserError(f"timeout_seconds must be above 2, got {timeout_seconds}")
        self.timeout_seconds = timeout_seconds
        self._watch: Watch | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.world_size > 1 and self._watch is None:
            from plgolf.training.health.watch import watch_peers  # noqa: PLC0415 (packed where it is used)

            self._watch = watch_peers(trainer, self.timeout_seconds)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._watch is not None:
            self._watch.leave()
            self._watch = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        watch, self._watch = self._watch, None
        if watch is None:
            return
        watch.main_is_ending.set()
        all_of_us = isinstance(exception, StoppedBySignal | RunError)
        its_own = isinstance(exception, UserError)
        # If a collective failed here, the cause is another rank: wait until it is named.
        if not all_of_us and not its_own and watch.concluded.wait(3 * BEAT_SECONDS):
            watch.leave()
            for logger in trainer.loggers:  # Lightning does not get to it.
                logger.finalize("failed")
            raise RunError(watch.verdict, silent=not watch.speaks) from exception
        if not all_of_us:
            watch.conclude(f"rank {trainer.global_rank}: {type(exception).__name__}: {exception}", said=True)
        watch.leave()


def end_with_launcher(trainer: Trainer, parent_pid: int) -> None:
    """Ends a rank when its launcher, the parent process, is gone, also before the ranks have met."""
    if trainer.local_rank == 0:  # It may be the user's own process, which may outlive its shell.
        return

    def watch() -> None:
        while os.getppid() == parent_pid:
            time.sleep(BEAT_SECONDS)
        # PeerWatch, if it has begun, ends the rank with a better message.
        time.sleep(2 * GRACE_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="launcher-watch", daemon=True).start()
