"""SIGTERM and SIGINT are notes to the run, which ends at its next safe point."""

import os
import signal
import threading
from types import FrameType
from typing import Any

from lightning.pytorch import Trainer


class StopSignals:
    """Notes the first SIGTERM or SIGINT instead of dying of it.

    Schedulers and launchers send a signal several times, and to several processes of a run: all but the
    first are ignored, except that a later SIGINT (somebody presses Ctrl-C) ends the process at once.
    """

    def __init__(self) -> None:
        self.received = 0
        """The first signal's number, 0 before."""
        self._loud = True
        self._previous: dict[int, Any] = {}

    def install(self, *, loud: bool = True) -> None:
        """Takes the handlers over, from whoever has them now; may be called again to take them back.

        Args:
            loud: answers a signal with a line at once.
        """
        self._loud = loud
        if threading.current_thread() is not threading.main_thread():
            return  # Python allows handlers in the main thread alone.
        for signum in (signal.SIGTERM, signal.SIGINT):
            handler = signal.getsignal(signum)
            if handler != self._note:
                self._previous.setdefault(signum, handler)
                signal.signal(signum, self._note)

    def install_for(self, trainer: Trainer) -> None:
        """Takes the handlers over for a fit, and back from Lightning, which takes SIGTERM before it trains.

        Its handler talks to other ranks from within, whatever they are talking about just then.
        """
        self.received = 0
        self.install(loud=trainer.is_global_zero)
        connector = trainer._signal_connector
        register = type(connector).register_signal_handlers

        def register_and_take_back() -> None:
            register(connector)
            self.install(loud=trainer.is_global_zero)
            # What it will put back when it ends are ours, of now.
            connector._original_handlers.update(self._previous)

        connector.register_signal_handlers = register_and_take_back  # type: ignore[method-assign]

    def restore(self) -> None:
        """Gives the handlers back to whom they were taken from first."""
        for signum, handler in self._previous.items():
            signal.signal(signum, handler if handler is not None else signal.SIG_DFL)
        self._previous = {}

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.received and signum == signal.SIGINT:
            os.write(2, b"plgolf: interrupted again, ending at once\n")
            os._exit(128 + signum)
        if not self.received:
            self.received = signum
            if self._loud:
                # Not print: its lock may be held by whoever was interrupted.
                name = signal.Signals(signum).name
                os.write(2, f"plgolf: {name}: the run ends after this step (Ctrl-C: at once)\n".encode())
