"""A short benchmarks/soak.py; docs/reliability.md has the figures of half an hour."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "soak.py"


@pytest.mark.slow
def test_random_kills_change_nothing():
    command = [sys.executable, str(SCRIPT), "--minutes=0.3", "--steps=150", "--mean_seconds=8", "--seed=3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout)
    assert result["runs"] == result["runs that ended bit-identical"] >= 1
    assert result["interruptions"] >= 2
