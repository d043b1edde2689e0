"""What a step costs beside its own work: plgolf's bare loop, and the same under Lightning's Trainer.

    python benchmarks/lightning_overhead.py [--rounds 7] [--steps 300] [--profile]

Both have the same model (tiny, so that there is little else), MuonAdam and BatchLoader. The Trainer has what
``plgolf fit`` gives it: GolfModule, ShardDataModule, TrainClock, CompileWarmup, RunCheckpoint, PeerWatch,
ConsoleLog and the CSV logger, 50 steps to a row. The turns alternate; of each the first steps do not count.
``--profile`` also runs a fit under cProfile, which makes everything slower, and says which functions took the
most time of a step, on the main thread.
"""

import cProfile
import gc
import pstats
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from contestants import PlgolfLoop, Size, default_device, shards, size_named
from lightning.pytorch import Callback, Trainer
from rounds import finish, parser, spread, synchronize
from shipped import data_of, fit_silently, module_of, trainer_of

from plgolf.model import GPT

WARM_UP = 50
SHOWN = 150


class Stopwatch(Callback):
    """Takes the time from the end of one step to the end of another.

    Args:
        first: step after which it starts.
        steps: how many it takes the time of.
        profile: what to run meanwhile, or None.
    """

    def __init__(self, first: int, steps: int, profile: cProfile.Profile | None = None) -> None:
        self.first, self.last, self.profile = first, first + steps, profile
        self.began: tuple[float, float] | None = None
        self.seconds = (0.0, 0.0)
        """Of a step: of the wall clock, and of this process on all processors."""

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.first and self.began is None:
            self.began = now()
            if self.profile:
                self.profile.enable()
        elif trainer.global_step == self.last and self.began and not any(self.seconds):
            if self.profile:
                self.profile.disable()
            self.seconds = per_step(self.began, self.last - self.first)


def now() -> tuple[float, float]:
    synchronize()
    return time.perf_counter(), time.process_time()


def per_step(began: tuple[float, float], steps: int) -> tuple[float, float]:
    wall, processor = now()
    return (wall - began[0]) / steps, (processor - began[1]) / steps


def bare(size: Size, root: Path, steps: int) -> tuple[float, float]:
    """Returns the seconds of a step: of the wall clock, and of this process on all processors."""
    torch.manual_seed(0)
    device, dtype = default_device(), getattr(torch, size.gpt.compute_dtype)
    loop = PlgolfLoop(GPT(size.gpt), size, root, device=device, dtype=dtype, compiled=False)
    for _ in range(WARM_UP):
        loop.step()
    began = now()
    for _ in range(steps):
        loop.step()
    return per_step(began, steps)


def shipped(
    size: Size, root: Path, steps: int, profile: cProfile.Profile | None = None
) -> tuple[float, float]:
    """Returns the same of the Trainer's."""
    torch.manual_seed(0)
    watch = Stopwatch(WARM_UP, steps, profile)
    with tempfile.TemporaryDirectory() as folder:
        # One step more than are timed: the last is followed by a checkpoint.
        trainer = trainer_of(Path(folder), watch, max_steps=WARM_UP + steps + 1)
        fit_silently(trainer, module_of(size), data_of(size, root, val_max_tokens=size.seq_len))
    return watch.seconds


def ranked(profile: cProfile.Profile, steps: int) -> dict[str, list[dict[str, Any]]]:
    """Returns the functions that took the most time: by themselves, and with what they call."""
    rows = []
    for (file, line, name), (_, calls, own, total, _) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        where = "/".join(Path(file).parts[-3:])
        rows.append(
            {
                "function": f"{where}:{line} {name}" if line else name,
                "calls_per_step": round(calls / steps, 2),
                "own_ms": round(1e3 * own / steps, 4),
                "with_callees_ms": round(1e3 * total / steps, 4),
            }
        )
    return {by: sorted(rows, key=lambda row: -row[by])[:SHOWN] for by in ("own_ms", "with_callees_ms")}


def main() -> None:
    arguments = parser(__doc__, rounds=7)
    arguments.add_argument("--steps", type=int, default=300, help="in a turn")
    arguments.add_argument("--profile", action="store_true")
    settings = arguments.parse_args()
    torch.set_num_threads(settings.threads or 1)
    size = size_named("tiny")
    seconds: dict[str, list[tuple[float, float]]] = {"bare": [], "shipped": []}
    with shards(None, vocab_size=size.gpt.vocab_size, tokens=2**18) as root:
        for number in range(-1, settings.rounds):
            order = [("bare", bare), ("shipped", shipped)][:: -1 if number % 2 else 1]
            for name, run in order:
                taken = run(size, root, settings.steps)
                gc.collect()
                if number >= 0:
                    seconds[name].append(taken)
        # By the processor: a machine that others share would blame whoever was just at work.
        profile = cProfile.Profile(time.thread_time) if settings.profile else None
        if profile:
            shipped(size, root, settings.steps, profile)
    pairs = list(zip(seconds["bare"], seconds["shipped"], strict=True))
    results: dict[str, Any] = {
        "ms_per_step": {name: spread([1e3 * wall for wall, _ in each]) for name, each in seconds.items()},
        "overhead_ms_per_step": spread([1e3 * (b[0] - a[0]) for a, b in pairs]),
        "processor_ms_per_step": {
            name: spread([1e3 * cpu for _, cpu in each]) for name, each in seconds.items()
        },
        "overhead_processor_ms_per_step": spread([1e3 * (b[1] - a[1]) for a, b in pairs]),
        "micro_batches_per_step": size.accumulation,
    }
    if profile:
        results["profile"] = ranked(profile, settings.steps)
    finish(settings, results)


if __name__ == "__main__":
    main()
