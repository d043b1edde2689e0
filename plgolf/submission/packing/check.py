"""Runs packed code on an artifact, in a process that sees no other code of plgolf."""

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from plgolf.submission.archive import extract_files

_TIMEOUT_SECONDS = 600
_SCRIPT = """
import json, sys
from pathlib import Path
folder, artifact, threads = sys.argv[1:]
sys.path.insert(0, folder)
import numpy as np, torch
torch.set_num_threads(int(threads))
from plgolf.training.command.packed import PackedRun
from plgolf.artifact import read_artifact

class Parsed(PackedRun):
    def instantiate_classes(self):
        pass

config = Path(folder, "config.yaml")
if config.exists():
    Parsed(["--config", str(config)])
for name, module in list(sys.modules.items()):
    file = getattr(module, "__file__", None)
    if name.split(".")[0] == "plgolf" and file and not Path(file).is_relative_to(folder):
        raise SystemExit(f"{name} is missing in the packed code")
inputs, targets = torch.from_numpy(np.load(Path(folder, "sample.npy")))
with torch.no_grad():
    losses = read_artifact(artifact).gpt()(inputs[None], targets[None], reduction="none")
print(json.dumps(losses.double().sum().item()))
"""


@dataclass(frozen=True)
class SampleScore:
    """A sample's score by packed code.

    Args:
        seconds: seconds that it took to start the process and to score.
        nats: negative log-likelihood of the sample; None after an error.
        error: the process's last line if it failed.
    """

    seconds: float
    nats: float | None = None
    error: str | None = None


def score_with(
    archive: bytes, artifact: Path, inputs: NDArray[np.int64], targets: NDArray[np.int64]
) -> SampleScore:
    """Unpacks code into a temporary folder and has it score a sample.

    Args:
        archive: the packed code.
        artifact: the file that it loads.
        inputs: token ids (tokens,).
        targets: token ids (tokens,).

    Returns:
        The score, or why there is none.
    """
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        extract_files(archive, folder)
        np.save(folder / "sample.npy", np.stack([inputs, targets]))
        words = [str(folder), str(artifact.resolve()), str(torch.get_num_threads())]
        # -I: neither the current folder nor PYTHONPATH nor the user's packages.
        command = [sys.executable, "-I", "-c", _SCRIPT, *words]
        try:
            done = subprocess.run(  # noqa: S603
                command, cwd=folder, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return SampleScore(time.monotonic() - start, error=str(error))
    seconds = time.monotonic() - start
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return SampleScore(seconds, error=f"{last:.300}")
    return SampleScore(seconds, nats=json.loads(done.stdout.splitlines()[-1]))
