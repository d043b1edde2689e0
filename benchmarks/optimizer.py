"""Measures the optimizer's part of a step: Newton-Schulz by layout, Adam by implementation, whole steps.

    python benchmarks/optimizer.py --size baseline [--rounds 9] [--repeat 1] [--dtype bfloat16]

On the parameters of a size of ``step.py``, with fixed random gradients. ``newton_schulz``: all matrices one
by one; stacked by shape, as plgolf has them; on a GPU also stacked without fused products and sums; and as in
the reference style, eager and compiled. ``adam``: everything but the matrices with ``torch.optim.Adam``
fused, foreach and plain, and in MuonAdam. ``step``: MuonAdam and the reference-style optimizers as a whole.
Also prints how far stacked is from one by one (equal on a CPU), and each from float64, relative to the norm.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from contestants import SIZES, default_device, size_named
from reference_style import ReferenceGPT, make_optimizers, newton_schulz
from rounds import compared, finish, in_turn, parser, relative_error
from torch import Tensor, nn

from plgolf.model import GPT
from plgolf.optim import MuonAdam
from plgolf.optim.muon import in_stacks
from plgolf.optim.orthogonalize import orthogonalize
from plgolf.roles import Role, param_groups

STEPS = 5


def with_gradients(model: nn.Module, seed: int = 0) -> nn.Module:
    """Gives every parameter a random gradient."""
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator).to(p.device, p.dtype)
    return model


def worst_error(found: list[Tensor], exact: list[Tensor]) -> float:
    return max(relative_error(a, b) for a, b in zip(found, exact, strict=True))


def newton_schulz_variants(model: nn.Module, dtype: torch.dtype) -> dict[str, Callable[[], list[Tensor]]]:
    matrices = {i: p.grad for i, p in enumerate(group_of(model, Role.MATRIX)["params"])}
    settings: dict[str, Any] = {"steps": STEPS, "dtype": dtype}
    compiled = torch.compile(newton_schulz, dynamic=False)

    def stacked(*, fused: bool = torch.cuda.is_available()) -> list[Tensor]:
        stages = [partial(orthogonalize, **settings, fused=fused)]
        done = in_stacks(matrices, lambda _: stages)
        return [done[index] for index in matrices]

    def stacked_in_seven() -> list[Tensor]:
        return stacked(fused=False)

    return {
        "one by one": lambda: [orthogonalize(g, **settings) for g in matrices.values()],
        "stacked": stacked,
        "stacked, as on a CPU": stacked_in_seven,
        "reference": lambda: [newton_schulz(g, STEPS, dtype) for g in matrices.values()],
        "reference compiled": lambda: [compiled(g, STEPS, dtype) for g in matrices.values()],
    }


def group_of(model: nn.Module, role: Role) -> dict[str, Any]:
    return next(group for group in param_groups(model) if group["role"] == role.value)


def adam_variants(model: nn.Module) -> dict[str, Callable[[], object]]:
    groups = [group for group in param_groups(model) if group["role"] != Role.MATRIX.value]
    params = [{"params": group["params"]} for group in groups]
    how = {"fused": {"fused": True}, "foreach": {"foreach": True}, "plain": {"foreach": False}}
    variants: dict[str, Callable[[], object]] = {
        name: torch.optim.Adam(params, lr=1e-6, **words).step for name, words in how.items()
    }
    return {**variants, "MuonAdam": MuonAdam(groups).step}


def step_variants(
    model: GPT, reference: ReferenceGPT, settings: dict[str, Any], *, fused: bool
) -> dict[str, Callable[[], object]]:
    def all_of(optimizers: list[torch.optim.Optimizer]) -> Callable[[], object]:
        return lambda: [optimizer.step() for optimizer in optimizers]

    plain, compiled = (
        make_optimizers(reference, settings, compiled=compiled, fused=fused) for compiled in (False, True)
    )
    ours = MuonAdam(param_groups(model), **settings)
    return {"reference": all_of(plain), "reference compiled": all_of(compiled), "plgolf": ours.step}


def main() -> None:
    arguments = parser(__doc__, rounds=9)
    arguments.add_argument("--size", choices=SIZES, default="small")
    arguments.add_argument("--repeat", type=int, default=1, help="calls in a turn")
    arguments.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    arguments.add_argument("--eager", action="store_true", help="leave out what is compiled")
    settings = arguments.parse_args()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    size, device = size_named(settings.size), default_device()
    torch.manual_seed(0)
    gpt = GPT(size.gpt)
    reference = with_gradients(ReferenceGPT(gpt, gpt.embedding.weight.dtype).to(device))
    model = with_gradients(gpt.to(device))
    layouts = newton_schulz_variants(model, getattr(torch, settings.dtype))
    found = {name: work() for name, work in layouts.items() if name != "reference compiled"}
    matrices = [p.grad for p in group_of(model, Role.MATRIX)["params"]]
    exact = [newton_schulz(g.double(), STEPS, torch.float64) for g in matrices]
    errors = {name: worst_error(each, exact) for name, each in found.items()}
    races = {
        "newton_schulz": (layouts, "reference"),
        "adam": (adam_variants(model), "plain"),
        "step": (
            step_variants(model, reference, size.optimizer, fused=device.type == "cuda"),
            "reference",
        ),
    }
    results: dict[str, Any] = {
        "matrices": len(matrices),
        "stacked_from_one_by_one": worst_error(found["stacked"], found["one by one"]),
        "error_of_newton_schulz": errors,
    }
    for label, (every, to) in races.items():
        variants = {name: work for name, work in every.items() if not (settings.eager and "compiled" in name)}
        times = in_turn(variants, rounds=settings.rounds, warm_up=2, repeat=settings.repeat)
        results[label] = compared(times, to=to)
    finish(settings, results)


if __name__ == "__main__":
    main()
