"""Causal attention inside the documents of packed rows."""

from collections.abc import Iterator
from contextlib import suppress
from inspect import signature
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from plgolf.errors import UserError

_BLOCK = 128
"""Queries in a block."""


def segment_attention(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, max_document_tokens: int | None = None
) -> Tensor:
    """Attends from each position to itself and to earlier positions of its document.

    On NVIDIA GPUs from compute capability 8.0 on, bfloat16 and float16 use PyTorch's kernel for documents of
    different lengths. Everything else goes document by document, in blocks of queries, so that memory grows
    with the row's length and not with its square (https://arxiv.org/abs/2205.14135). Both are one node of a
    compiled graph, which depends on the number of borders and not on their values: borders that are padded
    to a fixed number need one graph. It also depends on ``max_document_tokens``, which should therefore be a
    limit of all batches: the kernel starts work for this number of queries in every document.

    Args:
        q: queries, (rows, query heads, time, head_dim); the result has their shape and dtype.
        k: keys, (rows, key-value heads, time, head_dim); each head serves neighbouring query heads.
        v: values, of the shape of ``k``.
        cu_seqlens: int32 (borders,), on the device of ``q``: 0, the first token of each further document,
            counted through all rows, each of which starts one, and the number of tokens, which may be
            repeated.
        max_document_tokens: most tokens that a document has; None for those of the row.

    Raises:
        UserError: ``cu_seqlens`` is not int32 with one dimension; where the kernel is not used, also if its
            borders do not rise from 0 to the number of tokens, or a document has too many. The kernel would
            leave out what is beyond.
    """
    if cu_seqlens.dtype != torch.int32 or cu_seqlens.dim() != 1:
        found = f"{cu_seqlens.dtype} of shape {tuple(cu_seqlens.shape)}"
        raise UserError(f"cu_seqlens must be int32 of shape (borders,), got {found}")
    rows, most = q.size(0), min(max_document_tokens or q.size(2), q.size(2))
    # Without a copy: the heads of a position are side by side in memory.
    q, k, v = (x.transpose(1, 2).flatten(0, 1).transpose(0, 1)[None] for x in (q, k, v))
    y: Tensor
    if has_kernel(q.device, q.dtype, q.size(3)):
        y = kernel_attention(q, k, v, cu_seqlens, most)
    else:
        y = _each_document(q, k, v, cu_seqlens, most)[0]
    return torch.unflatten(y[0].transpose(0, 1), 0, (rows, -1)).transpose(1, 2)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def has_kernel(device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    """Returns True if PyTorch's kernel takes such queries, without rounding them to another dtype."""
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return False
    if torch.cuda.get_device_capability(device) < (8, 0) or head_dim > 256 or head_dim % 8:
        return False
    with suppress(ImportError):  # Older versions have no such kernel, or one without grouped heads.
        from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415 (imports the compiler)

        return {"window_size", "enable_gqa"} <= signature(varlen_attn).parameters.keys()
    return False


def kernel_attention(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, max_document_tokens: int) -> Tensor:
    """Attends in one row like ``segment_attention`` with PyTorch's kernel, also in documents of no tokens."""
    from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415 (imports the compiler)

    q, k, v = (x[0].transpose(0, 1) for x in (q, k, v))
    most, grouped = max_document_tokens, q.size(1) != k.size(1)
    y = varlen_attn(q, k, v, cu_seqlens, cu_seqlens, most, most, window_size=(-1, 0), enable_gqa=grouped)
    assert isinstance(y, Tensor)  # Without return_aux.
    return y.transpose(0, 1)[None]


@torch.library.custom_op("plgolf::segment_attention", mutates_args=())
def _each_document(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Returns the result, and the logarithms of the softmax's sums, (key-value heads, group, tokens)."""
    blocks = _Blocks(q, k, most)
    y = _like_heads(q)
    log_sums = _log_sums(q, k)
    for start, first, end in blocks.of(cu_seqlens):
        scores = blocks.scores(start, first, end)
        log_sum = scores.logsumexp(-1, keepdim=True)
        found = torch.bmm((scores - log_sum).exp().to(v.dtype), v[0, :, start:end])
        blocks.split(y)[:, :, first:end] = blocks.split_rows(found)
        log_sums[:, :, first:end] = blocks.split_rows(log_sum)[..., 0]
    return y, log_sums


@_each_document.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, most: int) -> tuple[Tensor, Tensor]:  # noqa: ARG001
    return _like_heads(q), _log_sums(q, k)


@torch.library.custom_op("plgolf::segment_attention_backward", mutates_args=())
def _each_document_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, y: Tensor, log_sums: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of q, k and v, with the probabilities computed again block by block."""
    blocks = _Blocks(q, k, q.size(2))
    exact = log_sums.dtype
    grad_q, (grad_k, grad_v) = _like_heads(q), (torch.zeros_like(x, dtype=exact) for x in (k, v))
    means = (grad.to(exact) * y.to(exact)).sum(-1).view_as(log_sums)
    for start, first, end in blocks.of(cu_seqlens):
        rows = [blocks.rows(x[..., None], first, end) for x in (log_sums, means)]
        probabilities = (blocks.scores(start, first, end) - rows[0]).exp()
        above = blocks.rows(blocks.split(grad), first, end)
        keys, values = k[0, :, start:end], v[0, :, start:end]
        grad_v[0, :, start:end] += torch.bmm(probabilities.to(v.dtype).mT, above)
        grad_scores = (probabilities * (torch.bmm(above, values.mT) - rows[1])).to(q.dtype)
        found = torch.bmm(grad_scores, keys) * blocks.scale
        blocks.split(grad_q)[:, :, first:end] = blocks.split_rows(found)
        grad_k[0, :, start:end] += torch.bmm(grad_scores.mT, blocks.queries(first, end))
    return grad_q, grad_k.to(k.dtype), grad_v.to(v.dtype)


@_each_document_backward.register_fake
def _(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ARG001
    return _like_heads(q), torch.empty_like(k), torch.empty_like(v)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:4], *output)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return (*_each_document_backward(grad, *ctx.saved_tensors), None, None)


_each_document.register_autograd(_backward, setup_context=_keep)


def _like_heads(q: Tensor) -> Tensor:
    """Returns an empty tensor like ``q`` with the heads of a position side by side in memory."""
    return q.new_empty(1, q.size(2), q.size(1), q.size(3)).transpose(1, 2)


def _log_sums(q: Tensor, k: Tensor) -> Tensor:
    groups = q.size(1) // k.size(1)
    return q.new_empty(k.size(1), groups, q.size(2), dtype=torch.promote_types(q.dtype, torch.float32))


class _Blocks:
    """Blocks of queries: the queries of heads that share keys are the rows of one matrix."""

    def __init__(self, q: Tensor, k: Tensor, most: int) -> None:
        self.q, self.k, self.most, self.tokens = q, k, most, q.size(2)
        self.heads, self.scale = k.size(1), float(q.size(3) ** -0.5)

    def of(self, cu_seqlens: Tensor) -> Iterator[tuple[int, int, int]]:
        """Yields the document's first token, and the first and the end of its queries, for each block."""
        borders = cu_seqlens.tolist()
        if not borders or borders[0] != 0 or borders[-1] != self.tokens or borders != sorted(borders):
            rule = f"must rise from 0 to the {self.tokens} tokens"
            raise UserError(f"cu_seqlens {rule}, got {', '.join(map(str, borders)):.100}")
        for start, end in pairwise(borders):
            if end - start > self.most:
                raise UserError(f"max_document_tokens must be at least {end - start}, got {self.most}")
            for first in range(start, end, _BLOCK):
                yield start, first, min(first + _BLOCK, end)

    def split(self, x: Tensor) -> Tensor:
        """Views (1, query heads, tokens, channels) as (key-value heads, group, tokens, channels)."""
        return torch.unflatten(x[0], 0, (self.heads, -1))

    def rows(self, x: Tensor, first: int, end: int) -> Tensor:
        """Returns positions of (key-value heads, group, tokens, n) as (key-value heads, rows, n)."""
        return x[:, :, first:end].flatten(1, 2)

    def split_rows(self, x: Tensor) -> Tensor:
        """Returns (key-value heads, rows, n) as (key-value heads, group, positions, n)."""
        return torch.unflatten(x, 1, (self.q.size(1) // self.heads, -1))

    def queries(self, first: int, end: int) -> Tensor:
        """Returns the scaled queries of a block, (key-value heads, rows, head_dim)."""
        return self.rows(self.split(self.q), first, end).mul(self.scale)

    def scores(self, start: int, first: int, end: int) -> Tensor:
        """Returns the masked scores of a block in float32 or float64, (key-value heads, rows, keys)."""
        queries = self.queries(first, end)
        hidden = queries.new_full((end - first, end - start), -torch.inf).triu(first - start + 1)
        hidden = hidden.repeat(self.q.size(1) // self.heads, 1)
        scores = torch.baddbmm(hidden, queries, self.k[0, :, start:end].mT)
        return scores.to(torch.promote_types(scores.dtype, torch.float32))
