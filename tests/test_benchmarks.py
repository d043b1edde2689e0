"""The benchmarks run, at tiny size; what they measure is no matter for a test."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
TINY = {
    "export": "--dim 64 --layers 1 --rounds 1",
    "loader": "--shards 2 --shard_tokens 3000 --seq_len 16 --sequences 2 --world_size 2 --rounds 1 "
    "--step_ms 1 --steps 60 --disk_mb 1",
    "validate": "--dim 32 --layers 1 --seq_len 16 --sequences 5 --batch_sequences 2 --rounds 1",
}


@pytest.mark.parametrize("name", TINY)
def test_benchmarks_print_json(name, tmp_path):
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "benchmarks" / f"{name}.py"), *TINY[name].split()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
    )
    assert done.returncode == 0, done.stderr
    assert {"settings", "machine"} < json.loads(done.stdout).keys()
