"""Measures a few layers, forward and backward, compiled: as plgolf has them, and in equivalent forms.

    python benchmarks/layers.py [--size baseline] [--layers 2] [--rounds 9] [--variants NAME ...]
    python benchmarks/layers.py --profile

One micro-batch of a size of ``step.py``; embedding, head and optimizer are left out. ``shipped`` is plgolf's
block, ``reference`` the reference-style one, under autocast; the others change products and scales. Errors
are relative to the norm of the float64 result on 512 positions: of the output, and the largest of all
gradients. ``--profile`` adds the GPU's kernels of each variant, by their time.

To add a variant, add a function of a block, its inputs and the rotary tables to ``VARIANTS``.
"""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from contestants import SIZES, Size, default_device, size_named
from reference_style import ReferenceGPT
from rounds import compared, finish, in_turn, kernels_of, parser, relative_error
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from plgolf.model import GPT
from plgolf.model.block import Block
from plgolf.model.causal import causal_attention
from plgolf.model.context import Context
from plgolf.model.norm import rms_norm
from plgolf.model.rotary import rotate

Tables = tuple[Tensor, Tensor]
Layer = Callable[[Any, Tensor, Tensor, Tables], Tensor]
TOKENS = torch.empty(0, 0, dtype=torch.long)  # No part reads them here.


def shipped(block: Block, x: Tensor, x0: Tensor, rotary: Tables) -> Tensor:
    y: Tensor = block(x, Context(TOKENS, x0, rotary))
    return y


def reference(block: nn.Module, x: Tensor, x0: Tensor, _: Tables) -> Tensor:
    y: Tensor = block(x, x0)
    return y


def in_halves(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates as ``rotate`` does, by cutting heads in halves."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos + second * sin, second * cos - first * sin), dim=-1)


def rewritten(
    block: Block,
    x: Tensor,
    x0: Tensor,
    rotary: Tables,
    *,
    folded: bool = True,
    heads_first: bool = False,
    joined: bool = False,
    turn: Callable[[Tensor, Tensor, Tensor], Tensor] = rotate,
) -> Tensor:
    """Computes the shipped block with its operations written out.

    Args:
        block: has the weights.
        x: the stream.
        x0: the normalised embedding.
        rotary: cosines and sines.
        folded: scales multiply the weights before them instead of the stream.
        heads_first: queries and keys are head by head in memory, not position by position.
        joined: queries, keys and values are one product.
        turn: rotary embedding.
    """
    attention, mlp, dtype = block.attention, block.mlp, x.dtype

    def scaled(y: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
        if folded:
            return F.linear(y, (scale[:, None] * weight).to(dtype))
        return scale.to(dtype) * F.linear(y, weight.to(dtype))

    keep, restore = block.residual_mix.to(dtype)
    x = keep * x + restore * x0
    h = rms_norm(x)
    weights = [attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]
    if joined:
        parts = F.linear(h, torch.cat(weights).to(dtype)).split([w.size(0) for w in weights], dim=-1)
    else:
        parts = tuple(F.linear(h, w.to(dtype)) for w in weights)
    q, k, v = (p.unflatten(-1, (-1, attention.head_dim)) for p in parts)
    cos, sin, gain = rotary[0][:, None], rotary[1][:, None], attention.qk_gain.to(dtype)[:, None]
    if heads_first:
        q, k = q.transpose(1, 2), k.transpose(1, 2)
        cos, sin, gain = *rotary, gain[:, None]
    q, k = turn(rms_norm(q), cos, sin) * gain, turn(rms_norm(k), cos, sin)
    if not heads_first:
        q, k = q.transpose(1, 2), k.transpose(1, 2)
    y = causal_attention(q, k, v.transpose(1, 2)).transpose(1, 2).reshape(x.shape)
    x = x + scaled(y, attention.out_proj.weight, block.attention_scale)
    h = torch.relu(F.linear(rms_norm(x), mlp.up_proj.weight.to(dtype))).square()
    return x + scaled(h, mlp.down_proj.weight, block.mlp_scale)


VARIANTS: dict[str, Layer] = {
    "shipped": shipped,
    "reference": reference,
    "scales apart": partial(rewritten, folded=False),
    "heads first": partial(rewritten, heads_first=True),
    "one product": partial(rewritten, joined=True),
    "in halves": partial(rewritten, turn=in_halves),
}


class Stack:
    """A variant on its own copy of some layers, on one input.

    Args:
        name: name of the variant.
        gpt: gives the first layers, with their weights.
        size: size of the micro-batch.
        dtype: dtype of the stream.
        compiled: compiles all layers as one graph.
    """

    def __init__(self, name: str, gpt: GPT, size: Size, dtype: torch.dtype, *, compiled: bool) -> None:
        device = gpt.embedding.weight.device
        generator = torch.Generator().manual_seed(0)
        shape = (size.sequences, size.seq_len, gpt.config.dim)
        # The stream, the normalised embedding, and the gradient of the result.
        made = [torch.randn(shape, generator=generator).to(device, dtype) for _ in range(3)]
        self.inputs, self.gradient = [x.requires_grad_() for x in made[:2]], made[2]
        self.is_reference = name == "reference"
        self.blocks = ReferenceGPT(gpt, dtype).to(device).blocks if self.is_reference else gpt.blocks
        self.params = list(self.blocks.parameters())
        self.rotary = gpt.rotary(size.seq_len, dtype)
        self.layer, self.dtype = VARIANTS[name], dtype
        self.run = torch.compile(self._run, dynamic=False, fullgraph=True) if compiled else self._run

    def _run(self, x: Tensor, x0: Tensor) -> Tensor:
        for block in self.blocks:
            x = self.layer(block, x, x0, self.rotary)
        return x

    def _precision(self) -> AbstractContextManager[Any]:
        if self.is_reference and self.dtype != torch.float64:
            return torch.autocast(self.gradient.device.type, self.dtype)
        return nullcontext()

    def forward(self, *inputs: Tensor) -> Tensor:
        flash = self.is_reference and self.gradient.is_cuda and self.dtype == torch.bfloat16
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION) if flash else nullcontext(), self._precision():
            return self.run(*inputs)

    def both_ways(self) -> list[Tensor]:
        """Returns the output, and the gradients of inputs and parameters."""
        y = self.forward(*self.inputs)
        return [y.detach(), *torch.autograd.grad(y, [*self.inputs, *self.params], self.gradient)]

    def exactness(self, positions: int) -> dict[str, Tensor]:
        """Returns output and gradients of the first positions by name, without the compiler."""
        leaves = [x[:1, :positions].detach().requires_grad_() for x in self.inputs]
        rotary = self.rotary
        self.rotary = (rotary[0][:positions], rotary[1][:positions])
        y = self._run(*leaves)
        self.rotary = rotary
        names = ["x", "x0", *(name for name, _ in self.blocks.named_parameters())]
        grads = torch.autograd.grad(y, [*leaves, *self.params], self.gradient[:1, :positions])
        return {"output": y.detach(), **dict(zip(names, grads, strict=True))}


def errors(found: dict[str, Tensor], exact: dict[str, Tensor]) -> dict[str, Any]:
    apart = {name: relative_error(found[name], b) for name, b in exact.items()}
    output = apart.pop("output")
    worst = max(apart, key=apart.__getitem__)
    return {"output": output, "gradients": apart[worst], "worst": worst}


def gpt_of(size: Size, layers: int, device: torch.device) -> GPT:
    """Returns a model with random values in place of zeros and ones, so that no gradient is zero."""
    config = size.gpt
    gpt = GPT(type(config)(**{**vars(config), "num_layers": layers})).to(device)
    generator = torch.Generator().manual_seed(1)
    for block in gpt.blocks:
        for p in (block.attention.out_proj.weight, block.mlp.down_proj.weight):
            p.data.copy_(torch.randn(p.shape, generator=generator) * p.size(1) ** -0.5)
        for p in (block.attention_scale, block.mlp_scale, block.residual_mix):
            p.data.add_((torch.randn(p.shape, generator=generator) * 0.1).to(device))
    return gpt


def main() -> None:
    arguments = parser(__doc__, rounds=9)
    arguments.add_argument(
        "--size", choices=SIZES, default="baseline" if torch.cuda.is_available() else "small"
    )
    arguments.add_argument("--layers", type=int, default=2)
    arguments.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    arguments.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    arguments.add_argument("--eager", action="store_true", help="run without the compiler")
    arguments.add_argument("--repeat", type=int, default=5, help="calls in a turn")
    arguments.add_argument("--profile", action="store_true")
    settings = arguments.parse_args()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    size, device, dtype = size_named(settings.size), default_device(), getattr(torch, settings.dtype)
    gpt = gpt_of(size, settings.layers, device)
    stacks = {name: Stack(name, gpt, size, dtype, compiled=not settings.eager) for name in settings.variants}
    exact = Stack("shipped", copy.deepcopy(gpt).double(), size, torch.float64, compiled=False).exactness(512)
    results: dict[str, Any] = {
        # The reference-style block has other parameter names.
        name: {} if stack.is_reference else {"errors": errors(stack.exactness(512), exact)}
        for name, stack in stacks.items()
    }
    forward = {name: partial(stack.forward, *stack.inputs) for name, stack in stacks.items()}
    both = {name: stack.both_ways for name, stack in stacks.items()}
    for label, works in (("forward_backward", both), ("forward", forward)):
        times = in_turn(works, rounds=settings.rounds, warm_up=2, repeat=settings.repeat)
        for name, row in compared(times, to=settings.variants[0]).items():
            results[name][label] = row
    if settings.profile and device.type == "cuda":
        for name, stack in stacks.items():
            results[name]["kernels"] = kernels_of(stack.both_ways, settings.repeat)
    finish(settings, {"layers": settings.layers, "variants": results})


if __name__ == "__main__":
    main()
