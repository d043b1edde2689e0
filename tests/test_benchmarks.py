"""Each script in benchmarks/ runs at a tiny size and prints JSON that holds what its docstring says."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from golden_data import GOLDEN
from processes import Rank

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
QUICKSTART = BENCHMARKS.parent / "configs" / "quickstart.yaml"
STEP = "step.py --size tiny --rounds 2 --shard_tokens 4096 --variants reference-float32 plgolf-float32"

LOADER = (
    "loader.py --shards 2 --shard_tokens 3000 --seq_len 16 --sequences 2 --world_size 2 --rounds 1 "
    "--step_ms 1 --steps 60 --disk_mb 1"
)


def run(*words: str, timeout: float = 120) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=timeout, cwd=BENCHMARKS.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def check(value, found: list[str]) -> None:
    """Checks what a script has printed: its settings, the machine, and a value at a path."""
    assert value["settings"] and value["machine"]["torch"]
    for name in found:
        value = value[name]
    assert value


def run_script(name: str, words: list[str]) -> None:
    """Runs a script in a process that has imported what it needs."""
    sys.argv = [name, *words]
    sys.path.insert(0, str(BENCHMARKS))
    runpy.run_path(str(BENCHMARKS / name), run_name="__main__")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "found"),
    [
        (f"{STEP} --curve 8", ["curves", "difference_to_reference", "reference-float32, other weights"]),
        (
            "lightning_overhead.py --rounds 1 --steps 5 --profile",
            ["wall_ms_per_step", "overhead", "over_by_hand", "of_quickest"],
        ),
        ("export.py --dim 64 --layers 1 --rounds 1", ["stages", "export", "plgolf", "speedup", "median"]),
        (LOADER, ["throttled", "plgolf", "step_ms_across_a_border", "median"]),
        (
            "validate.py --dim 32 --layers 1 --seq_len 16 --sequences 5 --batch_sequences 2 --rounds 1",
            ["time", "plgolf", "speedup", "median"],
        ),
        (
            f"generate.py --recipe {QUICKSTART} --rounds 1 --tokens 10 --prompts 1 20",
            ["prompts", "20", "cached", "tokens_per_second", "median"],
        ),
        (
            "layers.py --size tiny --layers 1 --rounds 2 --eager",
            ["variants", "scales apart", "forward_backward", "speedup", "median"],
        ),
        (
            "attention.py --shapes tiny --dtypes float32 --rounds 1 --compile",
            ["shapes", "tiny", "float32", "blockwise", "forward", "speedup"],
        ),
    ],
)
def test_prints_what_it_measured(command, found, tmp_path):
    script, *words = command.split()
    process = Rank(run_script, script, [*words, "--threads", "1"], folder=tmp_path)
    assert process.wait() == 0, process.said
    check(json.loads(process.stdout.read_text()), found)


@pytest.mark.slow
def test_sharing_starts_its_ranks_and_prints_what_they_measured():
    said = run(sys.executable, str(BENCHMARKS / "sharing.py"), "--size=tiny", "--rounds=2", "--threads=1")
    check(json.loads(said), ["ways", "reduce-scatter", "speedup", "median"])


FOUND = {
    "step": ["variants", "plgolf-bfloat16", "times_as_fast_as", "reference-bfloat16", "median"],
    "optimizer": ["step", "plgolf", "speedup", "median"],
    "attention": ["shapes", "tiny", "bfloat16", "sdpa", "errors", "keys"],
}
"""Where parts of gpu.sh have what they measured."""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_gpu_script_on_a_cpu(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    script, data = str(BENCHMARKS / "gpu.sh"), str(GOLDEN / "tied")
    said = run(script, "--tiny", str(tmp_path), "--data", data, timeout=590)
    parts = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    measured = {"step", "overhead", "attention", "optimizer"}
    assert set(parts) == {"dtypes", "syncs", "train"} | measured, said
    for part, found in FOUND.items():
        check(parts[part], found)
    assert parts["dtypes"]["tensors_seen"]["torch.float32"] == 1
    assert parts["train"]["graphs"] == 2 and parts["train"]["graph_breaks"] == 0
    assert parts["train"]["steps"] > 10, "no step after a validation"
    assert parts["train"]["result"]["val_bpb"] > 0


BARE = """
import importlib.util, sys
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == "rich" else found(name, *more)
import gpu_checks
try:
    gpu_checks.main()
except SystemExit as end:
    assert not end.code
extras = ["google.protobuf", *(f"plgolf.{name}" for name in ("arguments", "training.console.lines"))]
print([name for name in extras if name in sys.modules])
"""


@pytest.mark.slow
def test_gpu_training_needs_no_more_than_torch_lightning_sentencepiece_and_torchmetrics(tmp_path):
    words = ("train", "--tiny", "--eager", "--seconds", "1")
    paths = ("--folder", str(tmp_path), "--data", str(GOLDEN / "tied"))
    said = run(
        sys.executable, "-c", f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r}){BARE}", *words, *paths
    )
    assert said.splitlines()[-1] == "[]"
