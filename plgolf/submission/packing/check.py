"""Runs packed code on an artifact, in a process that sees no other code of plgolf."""

import json
import math
import subprocess
import sys
import tempfile
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


def score_with(
    archive: bytes, artifact: Path, inputs: NDArray[np.int64], targets: NDArray[np.int64]
) -> tuple[float, str | None]:
    """Unpacks code into a temporary folder and has it score a sample, which are token ids (tokens,).

    Returns:
        Negative log-likelihood of the sample in nats, NaN if the process failed; and its last line then.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        extract_files(archive, folder)
        np.save(folder / "sample.npy", np.stack([inputs, targets]))
        words = [str(folder), str(artifact.resolve()), str(torch.get_num_threads())]
        # -I: neither the current folder nor PYTHONPATH nor the user's packages.
        command = [sys.executable, "-I", "-c", _SCRIPT, *words]
        try:
            # In a session of its own: a signal to the run's group is the run's to answer.
            done = subprocess.run(  # noqa: S603
                command,
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_SECONDS,
                check=False,
                start_new_session=True,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return math.nan, str(error)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return math.nan, f"{last:.300}"
    return json.loads(done.stdout.splitlines()[-1]), None
