"""Measures causal attention with grouped heads: the kernels of this device, their times and errors.

    python benchmarks/attention.py [--shapes small baseline 4,8,4,1024,64 ...] [--dtypes bfloat16 float32]
    python benchmarks/attention.py --compile

A shape is that of a size of ``step.py``, or numbers: sequences, query heads, key heads, positions, head size.
Variants take turns in one process, with the forward pass alone and with forward and backward. A variant that
does not work here says why. Errors are relative to the norm of the float64 result for the same inputs, on one
sequence: of the output, and of the gradients of queries, keys and values. ``flash`` is FlashAttention 3 or 4
where one is installed.

To add a variant, add a function of queries, keys and values (sequences, heads, positions, head size) to
``VARIANTS``.
"""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from contestants import SIZES, default_device, size_named
from rounds import compared, finish, in_turn, parser, relative_error
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from plgolf.model import flash
from plgolf.model.causal import blockwise_attention, causal_attention

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


class Shape(NamedTuple):
    sequences: int
    heads: int
    kv_heads: int
    time: int
    head_dim: int


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.size(1) != k.size(1))


def by_backend(backend: SDPBackend, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    with sdpa_kernel(backend):
        return attend(q, k, v)


def expanded(backend: SDPBackend, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Repeats key heads to the number of query heads, for kernels without groups."""
    groups = q.size(1) // k.size(1)
    k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
    with sdpa_kernel(backend):
        return attend(q, k, v)


VARIANTS: dict[str, Attend] = {
    "sdpa": attend,
    "plgolf": causal_attention,
    "blockwise": blockwise_attention,
    "math": partial(by_backend, SDPBackend.MATH),
    "flash": partial(by_backend, SDPBackend.FLASH_ATTENTION),
    "flash, keys repeated": partial(expanded, SDPBackend.FLASH_ATTENTION),
    "cudnn": partial(by_backend, SDPBackend.CUDNN_ATTENTION),
    "cudnn, keys repeated": partial(expanded, SDPBackend.CUDNN_ATTENTION),
    "efficient": partial(by_backend, SDPBackend.EFFICIENT_ATTENTION),
    "efficient, keys repeated": partial(expanded, SDPBackend.EFFICIENT_ATTENTION),
}
"""``sdpa`` is PyTorch's own choice; all others are compared with it."""


def shape_named(name: str) -> Shape:
    if name not in SIZES:
        return Shape(*map(int, name.split(",")))
    size = size_named(name)
    attention = size.gpt.attention
    head_dim = attention.head_dim(size.gpt.dim)
    return Shape(size.sequences, attention.num_heads, attention.num_kv_heads, size.seq_len, head_dim)


def inputs(shape: Shape, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """Returns random queries, keys, values and the gradient of the output."""
    torch.manual_seed(0)
    heads = (shape.heads, shape.kv_heads, shape.kv_heads, shape.heads)
    # As projections write them: heads of a position side by side.
    made = [
        torch.randn(shape.sequences, shape.time, number, shape.head_dim, device=device).to(dtype)
        for number in heads
    ]
    return [x.transpose(1, 2) for x in made]


def both_ways(work: Attend, q: Tensor, k: Tensor, v: Tensor, gradient: Tensor) -> list[Tensor]:
    """Returns the output and the gradients of queries, keys and values."""
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    y = work(*leaves)
    return [y.detach(), *torch.autograd.grad(y, leaves, gradient)]


def errors(found: list[Tensor], exact: list[Tensor]) -> dict[str, float]:
    names = ("output", "queries", "keys", "values")
    return {name: relative_error(a[:1], b) for name, a, b in zip(names, found, exact, strict=True)}


def measured(settings: Any, shape: Shape, dtype: torch.dtype) -> dict[str, Any]:
    """Times and compares all variants on one shape."""
    parts = inputs(shape, dtype, default_device())
    first = [x[:1].double() for x in parts]
    exact = both_ways(VARIANTS["math"], *first)
    del first
    works: dict[str, Attend] = {}
    found: dict[str, Any] = {}
    torch.compiler.reset()  # The compiler allows a function only a few graphs, which all variants share.
    for name, variant in VARIANTS.items():
        work = torch.compile(variant, dynamic=False, fullgraph=True) if settings.compile else variant
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Reasons why a backend cannot be used.
                found[name] = {"errors": errors(both_ways(work, *parts), exact)}
        except (RuntimeError, NotImplementedError) as reason:
            found[name] = {"unavailable": str(reason).splitlines()[0][:120]}
            continue
        works[name] = work
    del exact
    forward = {name: partial(work, *parts[:3]) for name, work in works.items()}
    both = {name: partial(both_ways, work, *parts) for name, work in works.items()}
    with torch.no_grad():
        times = in_turn(forward, rounds=settings.rounds, repeat=settings.repeat)
    for label, seconds in (
        ("forward", times),
        ("forward_backward", in_turn(both, rounds=settings.rounds, repeat=settings.repeat)),
    ):
        for name, row in compared(seconds, to="sdpa").items():
            found[name][label] = row
    # Two products of half the positions with the others, of head_dim each.
    flops = 2 * shape.sequences * shape.heads * shape.time * (shape.time + 1) * shape.head_dim
    for name in works:
        for label, passes in (("forward", 1.0), ("forward_backward", 3.5)):
            found[name][label]["tflops"] = passes * flops / found[name][label]["ms"]["median"] / 1e9
    return found


def main() -> None:
    arguments = parser(__doc__, rounds=9)
    default = ["baseline"] if torch.cuda.is_available() else ["quickstart", "small"]
    arguments.add_argument("--shapes", nargs="+", default=default)
    arguments.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    arguments.add_argument("--repeat", type=int, default=1, help="calls in a turn")
    arguments.add_argument(
        "--compile", action="store_true", help="compile each variant, as in a compiled model"
    )
    settings = arguments.parse_args()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    newest = flash.activate_flash_attention(default_device()) if torch.cuda.is_available() else None
    results: dict[str, Any] = {}
    for name in settings.shapes:
        shape = shape_named(name)
        results[name] = {"shape": shape._asdict()}
        for dtype in settings.dtypes:
            results[name][dtype] = measured(settings, shape, getattr(torch, dtype))
    finish(settings, {"flash_attention": newest, "shapes": results})


if __name__ == "__main__":
    main()
