"""Turns SIGTERM, SIGINT and SIGHUP into a note that the run reads at its next safe point."""

import os
import signal
import threading
from types import FrameType
from typing import Any

_OUTPUTS = (1, 2)
"""File descriptors of standard output and standard error."""


class StopSignals:
    """Notes the first SIGTERM, SIGINT or SIGHUP (the terminal was closed) instead of dying of it.

    Schedulers and launchers send a signal several times, and to several processes of a run: later ones are
    ignored, except that a later SIGINT (Ctrl-C) ends the process at once. Under ``nohup``, which ignores
    SIGHUP, it stays ignored.
    """

    def __init__(self) -> None:
        self.received = 0
        """Number of the first signal; 0 before."""
        self.expected = False
        """True while a fit runs."""
        self._loud = True
        self._terminals: set[int] = set()
        self._previous: dict[int, Any] = {}

    def expect(self, *, loud: bool) -> None:
        """Forgets earlier signals, and lets ``install_if_expected`` install the handlers.

        Args:
            loud: answer a signal with a line at once.
        """
        self.received, self._loud, self.expected = 0, loud, True

    def install_if_expected(self) -> None:
        """Installs the handlers in a fit, once Lightning has installed its own and noted those before.

        Lightning's handler of SIGTERM talks to other ranks at once, in the middle of whatever they exchange.
        When a fit ends or fails, Lightning puts back the handlers that it noted.
        """
        if self.expected:
            self.install()

    def install(self) -> None:
        """Replaces the current handlers."""
        if threading.current_thread() is not threading.main_thread():
            return  # Python allows handlers only in the main thread.
        self._terminals |= {fd for fd in _OUTPUTS if os.isatty(fd)}
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            handler = signal.getsignal(signum)
            if handler == self._note or (signum == signal.SIGHUP and handler is signal.SIG_IGN):
                continue
            self._previous.setdefault(signum, handler)
            signal.signal(signum, self._note)

    def restore(self) -> None:
        """Puts back the handlers that ``install`` replaced, where no one else has replaced them since."""
        self.expected = False
        for signum, handler in self._previous.items():
            if signal.getsignal(signum) == self._note:
                signal.signal(signum, handler if handler is not None else signal.SIG_DFL)
        self._previous = {}

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGHUP:
            self._leave_closed_terminal()
        if self.received and signum == signal.SIGINT:
            os.write(2, b"plgolf: interrupted again, ending at once\n")
            os._exit(128 + signum)
        if not self.received:
            self.received = signum
            if self._loud:
                # Not print: the interrupted code may hold its lock.
                name = signal.Signals(signum).name
                os.write(2, f"plgolf: {name}: the run ends after this step (Ctrl-C: at once)\n".encode())

    def _leave_closed_terminal(self) -> None:
        """Sends output nowhere if its terminal is closed: writing to it would raise before the checkpoint."""
        for fd in self._terminals:
            if not os.isatty(fd):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, fd)
                os.close(nowhere)
