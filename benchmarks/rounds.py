"""What all benchmarks share: variants in turn, medians with their spread, errors, facts of the machine.

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
    """Returns the seconds of a call: by the wall clock, and of this process on all processors."""
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
        variants: functions to call, by name.
        rounds: number of turns of each; the order is reversed from one to the next.
        warm_up: number of rounds before these that do not count.
        repeat: number of calls in a turn.

    Returns:
        Seconds of a call in each round, by name: by the wall clock, and of this process.
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
    """Returns median, lowest and highest value."""
    return {"median": median(values), "min": min(values), "max": max(values)}


def compared(times: Mapping[str, Sequence[tuple[float, float]]], *, to: str) -> dict[str, Any]:
    """Summarises what ``in_turn`` measured.

    Args:
        times: result of ``in_turn``.
        to: variant that all are compared with.

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
    """Returns the norm of the difference, relative to the norm of the exact result."""
    exact = exact.double()
    return float((found.double() - exact).norm() / exact.norm())


def kernels_of(work: Callable[[], object], repeat: int = 1) -> list[dict[str, Any]]:
    """Returns the GPU's kernels in a call, the longest first."""
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
    """Returns a description of the machine and the versions."""
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
    """Makes a parser with the arguments that all benchmarks have."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--rounds", type=int, default=rounds, help="turns of each variant")
    made.add_argument("--threads", type=int, default=None, help="threads of torch on the CPU")
    made.add_argument("--json", type=Path, default=None, help="file to write the results to as well")
    return made


def finish(settings: argparse.Namespace, results: Mapping[str, Any]) -> None:
    """Prints the results of a benchmark as JSON, with its settings and the machine."""
    asked = {name: value for name, value in vars(settings).items() if name != "json"}
    text = json.dumps({"settings": asked, "machine": machine(), **results}, indent=2, default=str)
    print(text)
    if settings.json is not None:
        settings.json.write_text(text + "\n")
