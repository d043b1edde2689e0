"""Measures whole training steps, from batch to optimizer, of plgolf and of the reference style.

    python benchmarks/step.py --size quickstart [--rounds 7] [--repeat 5] [--variants NAME ...]
    python benchmarks/step.py --size quickstart --curve 200 --data data/quickstart
    python benchmarks/step.py --size baseline --variants reference-bfloat16-compiled plgolf-bfloat16-compiled

Sizes: ``quickstart`` is configs/quickstart.yaml, ``small`` has 4 layers of width 256 and 8 sequences of 512
tokens, ``baseline`` is configs/baseline.yaml on one device (8 micro-batches of 12 x 4096 tokens; for a GPU),
``tiny`` is for tests. A variant is ``plgolf`` or ``reference``, a dtype, and ``compiled``, joined by hyphens.

All start with the same weights and get the same tokens, from ``--data`` or random; they take turns in one
process. Each is compared with every reference variant: the median of the rounds' ratios. Utilisation is that
of the model's own products on a GPU whose peak is known; memory is what a loop alone takes of a GPU.

``--curve`` compares what they learn: it trains that many steps with the first reference variant, with every
plgolf variant, and with the reference once more from other weights, and prints the distances of the smoothed
loss curves.
"""

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contestants import SIZES, Loop, Size, contestant, default_device, shards, size_named
from rounds import compared, finish, in_turn, kernels_of, parser, spread

from plgolf.hardware import peak_flops
from plgolf.model import GPT
from plgolf.model.flops import train_flops_per_token

VARIANTS = (
    "reference-float32",
    "reference-float32-compiled",
    "plgolf-float32",
    "plgolf-float32-compiled",
    "plgolf-bfloat16",
    "plgolf-bfloat16-compiled",
)


def initial(size: Size, seed: int = 0) -> GPT:
    torch.manual_seed(seed)
    return GPT(size.gpt)


def tensor_bytes(loop: Loop) -> int:
    """Returns the bytes that a loop holds between steps: weights and optimizer state."""
    states = [value for o in loop.optimizers for state in o.state.values() for value in state.values()]
    held = [*loop.model.parameters(), *(value for value in states if isinstance(value, torch.Tensor))]
    return sum(tensor.numel() * tensor.element_size() for tensor in held)


def peak_mib(loop: Loop) -> int:
    """Returns the GPU memory that a loop alone takes."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    loop.step()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before + tensor_bytes(loop)) >> 20


def race(settings: Any, size: Size, root: Path, device: torch.device) -> dict[str, Any]:
    """Times the variants against each other."""
    gpt, loops, first_step, losses = initial(size), {}, {}, {}
    for name in settings.variants:
        loops[name] = contestant(name, gpt, size, root, device)
        began = time.perf_counter()
        losses[name] = float(loops[name].step())
        first_step[name] = round(time.perf_counter() - began, 2)
    steps: dict[str, Callable[[], object]] = {name: loop.step for name, loop in loops.items()}
    times = in_turn(steps, rounds=settings.rounds, warm_up=2, repeat=settings.repeat)
    references = [name for name in settings.variants if name.startswith("reference")]
    ratios = {to: compared(times, to=to) for to in references}
    per_token, peak = train_flops_per_token(size.gpt, size.seq_len), peak_flops(device)
    results: dict[str, Any] = {}
    for name, seconds in times.items():
        speeds = [size.step_tokens / wall for wall, _ in seconds]
        results[name] = {
            "ms": spread([1e3 * wall for wall, _ in seconds]),
            "tokens_per_second": spread(speeds),
            "processor_ms": spread([1e3 * processor for _, processor in seconds]),
            "times_as_fast_as": {to: ratios[to][name]["speedup"] for to in references},
            "times_as_fast_by_processor_as": {to: ratios[to][name]["processor_speedup"] for to in references},
            "first_step_seconds": first_step[name],
            "first_loss": losses[name],
        }
        if peak:
            results[name]["flops_utilisation"] = spread([speed * per_token / peak for speed in speeds])
        if device.type == "cuda":
            results[name]["peak_mib"] = peak_mib(loops[name])
            if settings.profile:
                results[name]["kernels"] = kernels_of(loops[name].step)
    return results


def curve(name: str, gpt: GPT, size: Size, root: Path, device: torch.device, steps: int) -> list[float]:
    loop = contestant(name, gpt, size, root, device)
    losses = [loop.step() for _ in range(steps)]
    return [float(loss) for loss in losses]


def smoothed(losses: Sequence[float], window: int) -> np.ndarray:
    return np.convolve(losses, np.ones(window) / window, mode="valid")


def apart(curves: Mapping[str, Sequence[float]], a: str, b: str, window: int) -> dict[str, float]:
    """Returns the distance of two smoothed curves: absolute, signed, and at the end."""
    difference = smoothed(curves[a], window) - smoothed(curves[b], window)
    return {
        "mean_absolute": float(np.abs(difference).mean()),
        "mean": float(difference.mean()),
        "most": float(np.abs(difference).max()),
        "last": float(difference[-1]),
    }


def curves(settings: Any, size: Size, root: Path, device: torch.device) -> dict[str, Any]:
    """Trains side by side and compares the losses."""
    reference = next(name for name in settings.variants if name.startswith("reference"))
    ours = [name for name in settings.variants if name.startswith("plgolf")]
    other = f"{reference}, other weights"
    found = {}
    for label, seed in ((reference, 0), *((name, 0) for name in ours), (other, 1)):
        name = label.partition(",")[0]
        found[label] = curve(name, initial(size, seed), size, root, device, settings.curve)
        gc.collect()
    window = max(settings.curve // 10, 1)
    return {
        "steps": settings.curve,
        "smoothed_over": window,
        "difference_to_reference": {
            name: apart(found, name, reference, window) for name in found if name != reference
        },
        "first_loss": {name: losses[0] for name, losses in found.items()},
        "last_loss": {name: float(smoothed(losses, window)[-1]) for name, losses in found.items()},
        "losses": {name: [round(loss, 5) for loss in losses] for name, losses in found.items()},
    }


def main() -> None:
    arguments = parser(__doc__, rounds=7)
    arguments.add_argument("--size", choices=SIZES, default="quickstart")
    arguments.add_argument("--variants", nargs="+", default=list(VARIANTS))
    arguments.add_argument("--repeat", type=int, default=1, help="steps in a turn")
    arguments.add_argument("--data", type=Path, default=None, help="folder of shards with 1024 pieces")
    arguments.add_argument("--shard_tokens", type=int, default=2**22, help="tokens of random shards")
    arguments.add_argument("--profile", action="store_true", help="list the GPU's kernels of a step")
    arguments.add_argument("--curve", type=int, default=0, help="number of steps whose losses are compared")
    settings = arguments.parse_args()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device, size = default_device(), size_named(settings.size)
    with shards(settings.data, vocab_size=size.gpt.vocab_size, tokens=settings.shard_tokens) as root:
        if settings.curve:
            results = {"curves": curves(settings, size, root, device)}
        else:
            results = {"variants": race(settings, size, root, device)}
    finish(settings, {"step_tokens": size.step_tokens, **results})


if __name__ == "__main__":
    main()
