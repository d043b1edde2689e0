"""Draws what a command prints on a terminal: python docs/pictures/terminal.py OUT.svg COMMAND...

The command runs for real on a pseudo terminal of 110 columns; lines that were rewritten in place are drawn as
they were last.
"""

import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

COLUMNS = 110


def screen(command: list[str]) -> str:
    """Runs a command and returns what is left on its terminal."""
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS)}
    run = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment)
    os.close(slave)
    said = b""
    while True:
        try:
            part = os.read(master, 1 << 16)
        except OSError:  # The other end is closed.
            break
        if not part:
            break
        said += part
    if run.wait():
        sys.exit(f"{command[0]} ended with {run.returncode}")
    lines = (re.split(r"\r\x1b\[K", line.rstrip("\r"))[-1] for line in said.decode().split("\n"))
    return "\n".join(lines).rstrip()


def main() -> None:
    out, *command = sys.argv[1:]
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text(f"$ {' '.join(command)}", "bold"))
    console.print(Text.from_ansi(screen(command)))
    svg = console.export_svg(title="plgolf")
    # The picture loads nothing from anywhere: fonts are the reader's own.
    Path(out).write_text(re.sub(r"@font-face \{.*?\}\n", "", svg, flags=re.DOTALL))


main()
