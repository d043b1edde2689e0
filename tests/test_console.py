import io
import sys

from plgolf import console
from plgolf.cli import main
from plgolf.console import ByteProgress, ProgressLine, Terminal


class Clock:
    def __init__(self, monkeypatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(console.time, "monotonic", lambda: self.now)


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_rewrites_its_progress_line_and_a_file_gets_one_every_ten_seconds(monkeypatch):
    clock = Clock(monkeypatch)
    tty, file = Tty(), io.StringIO()
    for stream in (tty, file):
        clock.now = 100.0
        terminal = Terminal(stream, prefix="data: ")
        for second in range(25):
            clock.now = 100.0 + second
            terminal.live(f"{second}")
        terminal.say("done")
    assert tty.getvalue().startswith("\r\x1b[Kdata: 0\r\x1b[Kdata: 1\r")
    assert tty.getvalue().endswith("data: 24\r\x1b[Kdata: done\n")
    assert file.getvalue() == "data: 10\ndata: 20\ndata: done\n"


def test_progress_shows_speed_and_time_left(monkeypatch):
    clock, tty = Clock(monkeypatch), Tty()
    progress = ByteProgress(Terminal(tty), "encoding", 400_000_000)
    progress.show(1_000_000)
    assert tty.getvalue() == ""  # Just begun.
    clock.now += 10
    progress.show(100_000_000, text_bytes=300_000_000, documents=1234, tokens=5)
    assert tty.getvalue() == "\r\x1b[Kencoding: 1,234 documents, 5 tokens, 30.0 MB/s, 25 %, 0:30 left"
    progress.show(100_000_001)
    clock.now += 7190
    progress.show(200_000_000)
    assert tty.getvalue().endswith("\r\x1b[Kencoding: 0.0 MB/s, 50 %, 2:00:00 left")


def test_a_job_of_unknown_length_shows_no_total(monkeypatch):
    clock, tty = Clock(monkeypatch), Tty()
    for total in (0, 40):
        job = ProgressLine(Terminal(tty), "validation", total, "batches")
        clock.now += 10
        job.show(20)
    assert tty.getvalue() == (
        "\r\x1b[Kvalidation: 20 batches\r\x1b[Kvalidation: 20 of 40 batches, 50 %, 0:10 left"
    )


def test_an_error_on_a_terminal_is_a_line_of_its_own(monkeypatch):
    tty = Tty()
    monkeypatch.setattr(sys, "stderr", tty)
    assert main(["fitt"]) == 2
    assert tty.getvalue().startswith("\r\x1b[Kplgolf: error: the command must be one of fit, ")
