"""Kills a small run at random moments, resumes it, and compares its end to the bit with an undisturbed run.

    python benchmarks/soak.py --minutes 30 --devices 2

Prints JSON. Fails if anything differs, or if a kill ends in another way than docs/reliability.md describes.
"""

import argparse
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch

REPOSITORY = Path(__file__).parent.parent
GOLDEN = REPOSITORY / "tests" / "golden" / "tied"
SIGNALS = {signal.SIGKILL: 6, signal.SIGTERM: 2, signal.SIGINT: 2}
"""Signals to send, with their weights."""

EXPECTED = {signal.SIGTERM: 143, signal.SIGINT: 130}


def command(folder: Path, steps: int, devices: int) -> list[str]:
    gpt = ["vocab_size=512", "dim=64", "num_layers=4", "attention.num_heads=4", "attention.num_kv_heads=2"]
    data = ["seq_len=64", "global_batch_tokens=1024", "micro_batch_sequences=4", "val_every_steps=400"]
    trainer = ["accelerator=cpu", f"devices={devices}", f"max_steps={steps}", "log_every_n_steps=100"]
    trainer += ["strategy=ddp"] if devices > 1 else []
    return [
        *(sys.executable, "-m", "plgolf", "fit", "--resume=auto", "--model.gpt.compute_dtype=float32"),
        *(f"--model.gpt.{setting}" for setting in gpt),
        *(
            f"--data.{setting}"
            for setting in (f"root={GOLDEN}", f"tokenizer={GOLDEN}/tokenizer.model", *data)
        ),
        *(f"--trainer.{setting}" for setting in (*trainer, f"default_root_dir={folder}")),
        *("--checkpoint.every_steps=50", "--console.every_steps=1000"),
    ]


def start(words: list[str]) -> "subprocess.Popen[str]":
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
    return subprocess.Popen(
        words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def newest_step(folder: Path) -> int:
    return max((int(path.stem.split("-")[1]) for path in folder.glob("step-*.ckpt")), default=0)


def end_of(folder: Path, steps: int) -> dict[str, object]:
    """Returns weights, optimizer state and score."""
    checkpoint = torch.load(folder / f"step-{steps:06}.ckpt", weights_only=True)
    result = json.loads((folder / "result.json").read_text())
    scores = {name: result[name] for name in ("val_loss", "val_bpb", "roundtrip_val_bpb", "steps")}
    return {
        "weights": checkpoint["state_dict"],
        "moments": checkpoint["optimizer_states"],
        "scores": scores,
        "artifact": (folder / "model.int8.ptz").read_bytes(),
    }


def same(left: object, right: object) -> bool:
    if isinstance(left, torch.Tensor):
        return isinstance(right, torch.Tensor) and torch.equal(left, right)
    if isinstance(left, dict):
        return (
            isinstance(right, dict)
            and left.keys() == right.keys()
            and all(same(left[k], right[k]) for k in left)
        )
    if isinstance(left, list):
        return isinstance(right, list) and len(left) == len(right) and all(map(same, left, right))
    return left == right


def is_rank(pid: int) -> bool:
    """Returns True for a rank of a run; the process that checks its packed code is a child, too."""
    try:
        return b"default_root_dir=" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # It has ended.
        return False


def kill(run: "subprocess.Popen[str]", rng: random.Random) -> tuple[signal.Signals, int]:
    """Sends a random signal to a random rank; returns it and the rank."""
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    pids = [run.pid, *(pid for pid in map(int, children) if is_rank(pid))]
    rank = rng.randrange(len(pids))
    signum = rng.choices(list(SIGNALS), list(SIGNALS.values()))[0]
    os.kill(pids[rank], signum)
    return signum, rank


def wait_for_all(run: "subprocess.Popen[str]", folder: Path) -> str:
    """Returns the output of all ranks; ranks that hang print their stacks."""
    try:
        return run.communicate(timeout=120)[1]
    except subprocess.TimeoutExpired:
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            if f"default_root_dir={folder}" in entry.read_text(errors="replace"):
                os.kill(int(entry.parent.name), signal.SIGABRT)
        raise AssertionError(f"a rank hangs:\n{run.communicate()[1]}") from None


def one_run(folder: Path, rng: random.Random, args: argparse.Namespace, log: dict[str, Counter[str]]) -> None:
    """Runs to the end, with signals on the way."""
    while True:
        began_at = newest_step(folder)
        run = start(command(folder, args.steps, args.devices))
        signum = None
        try:
            run.wait(rng.expovariate(1 / args.mean_seconds))
        except subprocess.TimeoutExpired:
            signum, rank = kill(run, rng)
            log["signals"][f"{signum.name} to rank {rank}"] += 1
        before = newest_step(folder)
        # Until all ranks have ended: each of them holds the other end of the pipe.
        said = wait_for_all(run, folder)
        if signum is None or run.returncode == 0:
            assert run.returncode == 0, said
            return
        log["ended with"][f"{signum.name}: {run.returncode}"] += 1
        if newest_step(folder) > began_at:  # It was training, not starting.
            # After the run has ended, any process may have its number.
            dies = signum == signal.SIGKILL or (folder / "result.json").exists()
            expected = {EXPECTED.get(signum, 1)} | ({-signum} if dies else set())
            assert run.returncode in expected, (signum, run.returncode, said)
            assert "Traceback" not in said, said
        assert newest_step(folder) >= before, "a checkpoint was lost"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--mean_seconds", type=float, default=15, help="between a start and a signal")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng, log = random.Random(args.seed), {"signals": Counter[str](), "ended with": Counter[str]()}
    with tempfile.TemporaryDirectory() as temporary:
        alone = Path(temporary) / "alone"
        began = time.monotonic()
        run = start(command(alone, args.steps, args.devices))
        said = run.communicate()[1]
        assert run.returncode == 0, said
        alone_seconds = time.monotonic() - began
        whole, runs, same_runs = end_of(alone, args.steps), 0, 0
        began = time.monotonic()
        while runs == 0 or time.monotonic() - began < 60 * args.minutes:
            folder = Path(temporary) / f"killed{runs}"
            one_run(folder, rng, args, log)
            runs += 1
            same_runs += same(whole, end_of(folder, args.steps))
        result = {
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
            **vars(args),
            "seconds": round(time.monotonic() - began),
            "seconds of the run left alone": round(alone_seconds),
            "runs": runs,
            "runs that ended bit-identical": same_runs,
            "interruptions": sum(log["signals"].values()),
            **{name: dict(sorted(counts.items())) for name, counts in log.items()},
        }
    sys.stdout.write(json.dumps(result, indent=2) + "\n")
    sys.exit(runs != same_runs)


if __name__ == "__main__":
    main()
