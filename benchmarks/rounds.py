"""What all benchmarks share: variants in turn, medians with their spread, errors, and what machine it was.

Machines are noisy, so that a time alone says little: each round runs every variant once, and the ratio of two
variants is the median of the rounds' ratios.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor


def synchronize() -> None:
    """Waits for the GPU, if one is in use."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def seconds_of(work: Callable[[], object]) -> tuple[float, float]:
    """Returns the seconds that a call takes: of the wall clock, and of this process on all processors."""
    synchronize()
    wall, processor = time.perf_counter(), time.process_time()
    work()
    synchronize()
    return time.perf_counter() - wall, time.process_time() - processor


def in_turn(
    variants: Mapping[str, Callable[[], object]], *, rounds: int, warm_up: int = 1, repeat: int = 1
) -> dict[str, list[tuple[float, float]]]:
    """Times variants against each other.

    Args:
        variants: what to call, by name.
        rounds: how often each has its turn; the order is turned round from one to the next.
        warm_up: rounds before these that do not count.
        repeat: calls in a turn.

    Returns:
        Seconds of a call in each round, by name: of the wall clock, and of this process.
    """
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
    for number in range(-warm_up, rounds):
        for name in sorted(variants, reverse=number % 2 == 1) if number >= 0 else variants:
            work = variants[name]
            wall, processor = seconds_of(lambda work=work: [work() for _ in range(repeat)])
            if number >= 0:
                times[name].append((wall / repeat, processor / repeat))
    return times


def spread(values: Sequence[float]) -> dict[str, float]:
    """Returns median, least and most."""
    return {"median": median(values), "min": min(values), "max": max(values)}


def compared(times: Mapping[str, Sequence[tuple[float, float]]], *, to: str) -> dict[str, Any]:
    """Summarises what ``in_turn`` measured.

    Args:
        times: its result.
        to: the variant that all are compared with.

    Returns:
        By name: milliseconds, and how many times faster than ``to`` (the median of the rounds' ratios).
    """
    return {
        name: {
            "ms": spread([1e3 * wall for wall, _ in seconds]),
            "processor_ms": spread([1e3 * processor for _, processor in seconds]),
            "speedup": spread([a[0] / b[0] for a, b in zip(times[to], seconds, strict=True)]),
            "processor_speedup": median(a[1] / b[1] for a, b in zip(times[to], seconds, strict=True)),
        }
        for name, seconds in times.items()
    }


def relative_error(found: Tensor, exact: Tensor) -> float:
    """Returns the norm of the difference, relative to that of what is exact."""
    exact = exact.double()
    return float((found.double() - exact).norm() / exact.norm())


def kernels_of(work: Callable[[], object], repeat: int = 1) -> list[dict[str, Any]]:
    """Returns what the GPU does in a call, the longest first."""
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(repeat):
            work()
        torch.cuda.synchronize()
    rows = [
        {
            "kernel": event.key,
            "calls": event.count / repeat,
            "us": round(event.self_device_time_total / repeat, 1),
        }
        for event in profile.key_averages()
        if event.self_device_time_total
    ]
    return sorted(rows, key=lambda row: -row["us"])


def machine() -> dict[str, Any]:
    """Says what measured."""
    names = [line for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "cpu": names[0].split(":")[1].strip() if names else platform.processor(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "load": float(_lines("/proc/loadavg")[0].split()[0]) if Path("/proc/loadavg").exists() else None,
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def parser(doc: str | None, *, rounds: int) -> argparse.ArgumentParser:
    """Makes the parser of a benchmark with the arguments that all have."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--rounds", type=int, default=rounds, help="turns of each variant")
    made.add_argument("--threads", type=int, default=None, help="of torch on the CPU")
    made.add_argument("--json", type=Path, default=None, help="writes the results there too")
    return made


def finish(settings: argparse.Namespace, results: Mapping[str, Any]) -> None:
    """Prints the results of a benchmark as JSON, with its settings and the machine."""
    asked = {name: value for name, value in vars(settings).items() if name != "json"}
    text = json.dumps({"settings": asked, "machine": machine(), **results}, indent=2, default=str)
    print(text)
    if settings.json is not None:
        settings.json.write_text(text + "\n")
