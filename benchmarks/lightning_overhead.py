"""Measures what the Trainer adds to a step: plgolf's loops without Lightning, and the same under its Trainer.

    python benchmarks/lightning_overhead.py [--rounds 150] [--steps 10] [--accumulation 2] [--profile]
    python benchmarks/lightning_overhead.py --size baseline --rounds 5 --steps 5
    python benchmarks/lightning_overhead.py --stock

All have the same model (one small layer, so that there is little else; or a size of ``step.py``, compiled,
with its own micro-batches), MuonAdam and BatchLoader. The bare loop does nothing else. The loop by hand also
does what every run needs, with plgolf's own parts: seeds, checks for NaN, clock and learning rates; what the
Trainer takes more is Lightning's loop, hooks and loggers. The Trainer has what ``plgolf fit`` gives it:
GolfModule, ShardDataModule, TrainClock, CompileWarmup, RunCheckpoint, PeerWatch, ConsoleLog and the CSV
logger, 50 steps to a row. With ``--stock`` it has a minimal LightningModule with manual optimization, and no
callbacks and loggers: what Lightning itself takes. The loops take turns in the middle of the fit, so that all
have the same process and the same state of the machine. Where other processes disturb that, the difference
of the two quickest turns says most. ``--profile`` slows everything, and lists the functions that took the
most time of a step under the Trainer, on the main thread.
"""

import cProfile
import dataclasses
import pstats
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from contestants import SIZES, PlgolfLoop, Size, default_device, shards, size_named
from lightning.pytorch import Callback, LightningModule, Trainer
from rounds import finish, parser, spread, synchronize
from shipped import data_of, fit_silently, module_of, trainer_of
from torch.optim.lr_scheduler import LambdaLR

from plgolf.data.stream import Batch
from plgolf.data.tokenizer import ByteTokenizer
from plgolf.distributed import all_gather_floats
from plgolf.model import GPT
from plgolf.optim import MuonAdam, Warmdown
from plgolf.roles import param_groups
from plgolf.training import TrainClock
from plgolf.training.health.nonfinite import StepStatistics
from plgolf.training.randomness import seed_generators

WARM_UP = 50
SHOWN = 150

Seconds = tuple[float, float]
"""Seconds of the wall clock, and of this process on all processors."""


class ByHand:
    """Adds to the bare loop what plgolf does in each step: seeds, checks, clock, learning rates.

    Args:
        loop: makes the steps.
        trainer: trainer of the fit in which this loop has its turns.
        module: module of that fit.
    """

    def __init__(self, loop: PlgolfLoop, trainer: Trainer, module: LightningModule) -> None:
        self.loop, self.trainer, self.made = loop, trainer, 0
        self.statistics = StepStatistics(dict(loop.model.named_parameters()))
        self.clock, schedule = TrainClock(), Warmdown()
        self.clock.on_train_start(trainer, module)
        self.rates = LambdaLR(
            loop.optimizers[0], lambda step: schedule.factor(self.clock.progress(step, trainer.max_steps))
        )

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.step()
        self.clock.on_train_end()  # Pauses the clock while others have their turns.

    def step(self) -> None:
        loop, statistics, clock = self.loop, self.statistics, self.clock
        (optimizer,) = loop.optimizers
        statistics.begin()
        seed_generators(0, self.made, 0)
        clock.on_train_batch_start()
        for _ in range(loop.accumulation):
            statistics.add_loss(loop.micro_batch())
        statistics.add_gradients()
        optimizer.step()
        optimizer.zero_grad()
        statistics.end()
        self.made += 1
        if clock.is_due(self.trainer):
            unread = statistics.take()
            by_rank = all_gather_floats(statistics.stacked(unread), clock.reading())
            clock.agree(by_rank)
            statistics.read(self.trainer, unread, [row[2:] for row in by_rank])
        else:
            clock.advance()
        self.rates.step()


class StockModule(LightningModule):
    """Makes the same steps as the bare loop, and nothing else."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.gpt, self.size = GPT(size.gpt), size

    def configure_optimizers(self) -> MuonAdam:
        return MuonAdam(param_groups(self.gpt), **self.size.optimizer)

    def training_step(self, batch: Sequence[Batch]) -> None:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        for part in batch:
            loss = self.gpt(part.input_ids.long(), part.target_ids.long())
            self.manual_backward(loss / len(batch))
        optimizer.step()


class Turns(Callback):
    """Times the steps of a fit, and those of other loops between them.

    Args:
        loop: the bare loop.
        steps: number of timed steps in a turn.
        rounds: number of turns of each.
        profile: runs during the turns of the fit; None for no profile.
    """

    def __init__(self, loop: PlgolfLoop, steps: int, rounds: int, profile: cProfile.Profile | None) -> None:
        self.loop, self.steps, self.rounds, self.profile = loop, steps, rounds, profile
        self.seconds: dict[str, list[Seconds]] = defaultdict(list)
        """Seconds of a step in each turn, by loop."""
        self._others: dict[str, Callable[[int], object]] = {}
        self._began: Seconds | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._others = {"bare": self.loop.run}
        if not isinstance(pl_module, StockModule):
            self._others["by_hand"] = ByHand(self.loop, trainer, pl_module).run

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        step = trainer.global_step - WARM_UP
        if step < 0:
            return
        # The first step of a turn is not timed: the caches hold another loop's data.
        of_turn = step % (self.steps + 1)
        if of_turn == 1 and len(self.seconds["shipped"]) < self.rounds:
            self._began = now()
            if self.profile:
                self.profile.enable()
        elif of_turn == 0 and self._began is not None:
            if self.profile:
                self.profile.disable()
            self.seconds["shipped"].append(self._since(self._began))
            self._began = None
            self._take_turns()

    def _take_turns(self) -> None:
        for name in sorted(self._others, reverse=len(self.seconds["shipped"]) % 2 == 0):
            self._others[name](1)
            began = now()
            self._others[name](self.steps)
            self.seconds[name].append(self._since(began))

    def _since(self, began: Seconds) -> Seconds:
        wall, processor = now()
        return (wall - began[0]) / self.steps, (processor - began[1]) / self.steps


def stock_trainer(turns: Turns, max_steps: int) -> Trainer:
    return Trainer(
        accelerator="auto",
        devices=1,
        callbacks=[turns],
        max_steps=max_steps,
        max_epochs=-1,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def now() -> Seconds:
    synchronize()
    return time.perf_counter(), time.process_time()


def size_of(name: str | None, accumulation: int) -> Size:
    size = size_named(name or "tiny")
    if name is None:
        gpt = dataclasses.replace(size.gpt, num_layers=1)
        return dataclasses.replace(size, gpt=gpt, accumulation=accumulation)
    return size.with_vocabulary(ByteTokenizer.vocab_size)  # Random shards of this size have a tokenizer.


def fit(
    size: Size,
    root: Path,
    steps: int,
    rounds: int,
    *,
    compiled: bool,
    stock: bool = False,
    profile: cProfile.Profile | None = None,
) -> Turns:
    """Trains with all loops, in turns."""
    torch.manual_seed(0)
    device, dtype = default_device(), getattr(torch, size.gpt.compute_dtype)
    loop = PlgolfLoop(GPT(size.gpt), size, root, device=device, dtype=dtype, compiled=compiled)
    turns = Turns(loop, steps, rounds, profile)
    with tempfile.TemporaryDirectory() as folder:
        # One step more than the turns have, because a checkpoint follows the last.
        max_steps = WARM_UP + (steps + 1) * rounds + 1
        data = data_of(size, root, val_max_tokens=size.seq_len)
        if stock:
            stock_trainer(turns, max_steps).fit(StockModule(size), data)
        else:
            trainer = trainer_of(Path(folder), turns, max_steps=max_steps)
            fit_silently(trainer, module_of(size, compiled=compiled), data)
    return turns


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
    arguments = parser(__doc__, rounds=150)
    arguments.add_argument("--steps", type=int, default=10, help="timed steps in a turn")
    arguments.add_argument("--accumulation", type=int, default=1, help="micro-batches in a step")
    arguments.add_argument(
        "--size", choices=SIZES, default=None, help="a size of step.py, compiled, with its own micro-batches"
    )
    arguments.add_argument("--stock", action="store_true", help="a minimal module, to see Lightning alone")
    arguments.add_argument("--profile", action="store_true")
    settings = arguments.parse_args()
    torch.set_num_threads(settings.threads or 1)
    size, compiled = size_of(settings.size, settings.accumulation), settings.size is not None
    with shards(None, vocab_size=size.gpt.vocab_size, tokens=2**20) as root:
        turns = fit(size, root, settings.steps, settings.rounds, compiled=compiled, stock=settings.stock)
        # By the processor: on a shared machine the wall clock would count other processes.
        profile = cProfile.Profile(time.thread_time) if settings.profile else None
        if profile:
            fit(size, root, settings.steps, settings.rounds, compiled=compiled, profile=profile)
    results: dict[str, Any] = {}
    for index, clock in enumerate(("wall", "processor")):
        ms = {name: [1e3 * seconds[index] for seconds in each] for name, each in turns.seconds.items()}
        shipped = ms["shipped"]
        results[f"{clock}_ms_per_step"] = {name: spread(each) for name, each in ms.items()} | {
            "overhead": {
                f"over_{name}": {
                    **spread([a - b for a, b in zip(shipped, ms[name], strict=True)]),
                    "of_quickest": min(shipped) - min(ms[name]),
                }
                for name in ms
                if name != "shipped"
            }
        }
    if profile:
        results["profile"] = ranked(profile, settings.steps * settings.rounds)
    finish(settings, results)


if __name__ == "__main__":
    main()
