"""Measures how fast training batches come, beside a loader like the reference's that reads whole shards.

    python benchmarks/loader.py [--rounds 5] [--world_size 8] [--disk_mb 57] [--step_ms 52]

Rank 0 of a run on several ranks reads micro-batches from shards that are made for this, several times over.
Reference style: one stream on every rank, which reads a shard with ``np.fromfile`` when it reaches it, takes
the spans of all ranks, and widens its own to int64. plgolf: each rank reads its own span, a few batches ahead
in the background; the widening is counted. Both give the same batches, which is checked. Tokens a second are
measured with the shards in the page cache, and with the system told to drop them before each turn
(``/proc/self/io`` gives the bytes read). Then a disk as slow as ``--disk_mb`` and a step of ``--step_ms``:
times of steps with and without a shard border in them.
"""

import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from rounds import finish, in_turn, parser, spread
from torch import Tensor

from plgolf.data.loader import BatchLoader
from plgolf.data.shards import HEADER_BYTES, ShardReader, find_shards, write_shard
from plgolf.data.stream import BatchPlan, TrainStream

Batches = Iterator[tuple[Tensor, Tensor]]


class SlowDisk:
    """Waits at each read as long as a disk of so many bytes a second takes; 0 for no wait."""

    def __init__(self, bytes_per_second: float) -> None:
        self.bytes_per_second = bytes_per_second

    def wait(self, num_bytes: int) -> None:
        if self.bytes_per_second:
            time.sleep(num_bytes / self.bytes_per_second)


class SlowReader(ShardReader):
    """Reads shards from a slow disk."""

    disk: SlowDisk

    def _fill(self, index: int, offset: int, into: Any) -> None:
        self.disk.wait(into.nbytes)
        super()._fill(index, offset, into)


def ours(folder: Path, settings: Any, disk: SlowDisk) -> Batches:
    reader = SlowReader(find_shards(folder, "train"), vocab_size=1024)
    reader.disk = disk
    plan = BatchPlan(settings.sequences, settings.sequences, 1, settings.world_size)
    stream = TrainStream(reader, plan, seq_len=settings.seq_len, rank=0)
    for batch in BatchLoader(stream.batch, 2**40):
        yield batch.input_ids.long(), batch.target_ids.long()


def reference_style(folder: Path, settings: Any, disk: SlowDisk) -> Batches:
    paths = itertools.cycle(sorted(folder.glob("*_train_*.bin")))

    def next_shard() -> Tensor:
        path = next(paths)
        disk.wait(path.stat().st_size)
        return torch.from_numpy(np.fromfile(path, dtype="<u2", offset=HEADER_BYTES))

    tokens, position = next_shard(), 0
    span = settings.sequences * settings.seq_len + 1
    while True:
        chunks, missing = [], span * settings.world_size
        while missing:
            if position == tokens.numel():
                tokens, position = next_shard(), 0
            chunks.append(tokens[position : position + missing])
            position += chunks[-1].numel()
            missing -= chunks[-1].numel()
        local = torch.cat(chunks)[:span].to(torch.int64)
        yield local[:-1].view(-1, settings.seq_len), local[1:].view(-1, settings.seq_len)


LOADERS = {"plgolf": ours, "reference": reference_style}


def make_shards(folder: Path, settings: Any) -> None:
    generator = np.random.default_rng(0)
    for number in range(settings.shards):
        tokens = generator.integers(0, 1024, settings.shard_tokens, dtype=np.uint16)
        write_shard(folder / f"made_train_{number:06d}.bin", tokens)


def drop_from_cache(folder: Path) -> None:
    for path in folder.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def bytes_from_disk() -> int:
    lines = Path("/proc/self/io").read_text().splitlines() if Path("/proc/self/io").exists() else []
    return next((int(line.split()[1]) for line in lines if line.startswith("read_bytes")), 0)


def draw(batches: Batches, number: int) -> None:
    for _ in itertools.islice(batches, number):
        pass
    batches.close()  # type: ignore[attr-defined]


def throughput(folder: Path, settings: Any, *, cold: bool) -> dict[str, Any]:
    fetched: dict[str, list[int]] = {name: [] for name in LOADERS}
    number = settings.shards * settings.shard_tokens // tokens_of_all_ranks(settings)

    def turn(name: str) -> Callable[[], None]:
        def work() -> None:
            before = bytes_from_disk()
            draw(LOADERS[name](folder, settings, SlowDisk(0)), number)
            fetched[name].append(bytes_from_disk() - before)
            if cold:
                drop_from_cache(folder)  # For the next turn; the first is a warm-up.

        return work

    times = in_turn({name: turn(name) for name in LOADERS}, rounds=settings.rounds)
    tokens = number * settings.sequences * settings.seq_len
    return {
        name: {
            "million_tokens_per_second": spread([tokens / wall / 1e6 for wall, _ in times[name]]),
            "speedup": spread([a[0] / b[0] for a, b in zip(times["reference"], times[name], strict=True)]),
            "mib_from_disk": median(fetched[name][1:]) / 2**20,
        }
        for name in LOADERS
    }


def tokens_of_all_ranks(settings: Any) -> int:
    return settings.world_size * (settings.sequences * settings.seq_len + 1)


def throttled(folder: Path, settings: Any) -> dict[str, Any]:
    """Times steps that sleep, on batches from a slow disk."""
    results = {}
    for name, loader in LOADERS.items():
        batches = loader(folder, settings, SlowDisk(1e6 * settings.disk_mb))
        steps = []
        for _ in range(settings.steps + 1):
            start = time.perf_counter()
            next(batches)
            time.sleep(settings.step_ms / 1e3)
            steps.append(1e3 * (time.perf_counter() - start))
        batches.close()  # type: ignore[attr-defined]
        per_step = tokens_of_all_ranks(settings)
        crossing = [
            (k * per_step) // settings.shard_tokens != ((k + 1) * per_step - 1) // settings.shard_tokens
            for k in range(settings.steps + 1)
        ]
        # The first batch waits for the disk in any loader.
        within = [ms for ms, over in zip(steps[1:], crossing[1:], strict=True) if not over]
        across = [ms for ms, over in zip(steps[1:], crossing[1:], strict=True) if over]
        results[name] = {
            "first_step_ms": steps[0],
            "step_ms": spread(within),
            "step_ms_across_a_border": spread(across) if across else None,
            "mean_step_ms": sum(steps[1:]) / settings.steps,
        }
    return results


def main() -> None:
    options = parser(__doc__, rounds=5)
    options.add_argument("--shards", type=int, default=4)
    options.add_argument("--shard_tokens", type=int, default=20_000_000)
    options.add_argument("--seq_len", type=int, default=4096)
    options.add_argument("--sequences", type=int, default=12, help="sequences in a micro-batch of a rank")
    options.add_argument("--world_size", type=int, default=8, help="ranks, of which this is the first")
    options.add_argument("--disk_mb", type=float, default=57.0, help="megabytes a second of the slow disk")
    options.add_argument("--step_ms", type=float, default=52.0, help="milliseconds of the simulated step")
    options.add_argument("--steps", type=int, default=160, help="steps on the slow disk")
    settings = options.parse_args()
    torch.set_num_threads(settings.threads or 1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_shards(folder, settings)
        both = [LOADERS[name](folder, settings, SlowDisk(0)) for name in LOADERS]
        for _ in range(2 * settings.shard_tokens // tokens_of_all_ranks(settings)):
            assert all(torch.equal(a, b) for a, b in zip(*map(next, both), strict=True))
        finish(
            settings,
            {
                "warm": throughput(folder, settings, cold=False),
                "cold": throughput(folder, settings, cold=True),
                "throttled": throttled(folder, settings),
            },
        )


if __name__ == "__main__":
    main()
