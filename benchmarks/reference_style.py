"""A plain PyTorch loop of plgolf's model, written as the reference program is: the base of all speed ratios.

Written for this purpose after that program, with its parameter names: separate projections of queries, keys
and values, autocast where it computes in bfloat16, Newton-Schulz matrix by matrix, an Adam for each kind of
parameter, int64 batches cut from whole shards while the device waits, and the loss read after each step.
``step.py`` and ``optimizer.py`` time it; a test compares it with the reference program's own first steps.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from plgolf.model import GPT, GPTConfig
from plgolf.optim import AdamConfig, MuonConfig
from plgolf.reference import weights_to_reference

SMALL_PARAMETERS = ("attn_scale", "mlp_scale", "resid_mix", "q_gain", "skip_weights")
"""What stays float32 and is trained as a scalar, as the reference finds it: by parts of names."""


class RMSNorm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.size(-1),))


class CastedLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype))


class Rotary(nn.Module):
    def __init__(self, dim: int, base: float) -> None:
        super().__init__()
        inv_freq = 1.0 / base ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)
        self.register_buffer("inv_freq", inv_freq, persistent=False)
        self.cached: tuple[int, Tensor, Tensor] | None = None

    def forward(self, seq_len: int, like: Tensor) -> tuple[Tensor, Tensor]:
        if self.cached is None or self.cached[0] != seq_len or self.cached[1].device != like.device:
            freqs = torch.outer(torch.arange(seq_len, device=like.device).float(), self.inv_freq)
            self.cached = (seq_len, freqs.cos()[None, None], freqs.sin()[None, None])
        return self.cached[1].to(like.dtype), self.cached[2].to(like.dtype)


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.size(-1) // 2
    x1, x2 = x[..., :half], x[..., half:]
    return torch.cat((x1 * cos + x2 * sin, x1 * (-sin) + x2 * cos), dim=-1)


class Attention(nn.Module):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        settings, dim = config.attention, config.dim
        self.num_heads, self.num_kv_heads = settings.num_heads, settings.num_kv_heads
        self.head_dim = dim // self.num_heads
        kv_dim = self.num_kv_heads * self.head_dim
        self.c_q = CastedLinear(dim, dim, bias=False)
        self.c_k = CastedLinear(dim, kv_dim, bias=False)
        self.c_v = CastedLinear(dim, kv_dim, bias=False)
        self.proj = CastedLinear(dim, dim, bias=False)
        self.q_gain = nn.Parameter(torch.full((self.num_heads,), settings.qk_gain))
        self.rotary = Rotary(self.head_dim, settings.rope_base)

    def forward(self, x: Tensor) -> Tensor:
        batch, time, dim = x.shape
        q = self.c_q(x).reshape(batch, time, self.num_heads, self.head_dim).transpose(1, 2)
        k = self.c_k(x).reshape(batch, time, self.num_kv_heads, self.head_dim).transpose(1, 2)
        v = self.c_v(x).reshape(batch, time, self.num_kv_heads, self.head_dim).transpose(1, 2)
        q, k = F.rms_norm(q, (self.head_dim,)), F.rms_norm(k, (self.head_dim,))
        cos, sin = self.rotary(time, q)
        q, k = apply_rotary(q, cos, sin), apply_rotary(k, cos, sin)
        q = q * self.q_gain.to(q.dtype)[None, :, None, None]
        grouped = self.num_kv_heads != self.num_heads
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=None, is_causal=True, enable_gqa=grouped)
        return self.proj(y.transpose(1, 2).contiguous().reshape(batch, time, dim))


class MLP(nn.Module):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        hidden = config.mlp.hidden_dim(config.dim)
        self.fc = CastedLinear(config.dim, hidden, bias=False)
        self.proj = CastedLinear(hidden, config.dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(torch.relu(self.fc(x)).square())


class Block(nn.Module):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.attn_norm, self.mlp_norm = RMSNorm(), RMSNorm()
        self.attn, self.mlp = Attention(config), MLP(config)
        self.attn_scale = nn.Parameter(torch.ones(config.dim))
        self.mlp_scale = nn.Parameter(torch.ones(config.dim))
        self.resid_mix = nn.Parameter(torch.stack((torch.ones(config.dim), torch.zeros(config.dim))))

    def forward(self, x: Tensor, x0: Tensor) -> Tensor:
        mix = self.resid_mix.to(x.dtype)
        x = mix[0][None, None, :] * x + mix[1][None, None, :] * x0
        x = x + self.attn_scale.to(x.dtype)[None, None, :] * self.attn(self.attn_norm(x))
        return x + self.mlp_scale.to(x.dtype)[None, None, :] * self.mlp(self.mlp_norm(x))


class ReferenceGPT(nn.Module):
    """The model with the reference's names; it starts with the weights of a plgolf model."""

    def __init__(self, gpt: GPT, dtype: torch.dtype) -> None:
        super().__init__()
        config = gpt.config
        self.softcap = config.head.softcap
        self.tok_emb = nn.Embedding(config.vocab_size, config.dim)
        self.num_encoder_layers = config.num_layers // 2
        self.num_decoder_layers = config.num_layers - self.num_encoder_layers
        self.num_skips = min(self.num_encoder_layers, self.num_decoder_layers)
        self.skip_weights = nn.Parameter(torch.ones(self.num_skips, config.dim))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.final_norm = RMSNorm()
        tied = config.head.tied
        self.lm_head = None if tied else CastedLinear(config.dim, config.vocab_size, bias=False)
        self.tok_emb.to(dtype)
        self.load_state_dict(weights_to_reference(gpt.state_dict()))

    def forward(self, input_ids: Tensor, target_ids: Tensor) -> Tensor:
        x = self.tok_emb(input_ids)
        x = x0 = F.rms_norm(x, (x.size(-1),))
        skips: list[Tensor] = []
        for i in range(self.num_encoder_layers):
            x = self.blocks[i](x, x0)
            skips.append(x)
        for i in range(self.num_decoder_layers):
            if skips:
                x = x + self.skip_weights[i].to(x.dtype)[None, None, :] * skips.pop()
            x = self.blocks[self.num_encoder_layers + i](x, x0)
        x = self.final_norm(x).reshape(-1, x.size(-1))
        logits = F.linear(x, self.tok_emb.weight) if self.lm_head is None else self.lm_head(x)
        logits = self.softcap * torch.tanh(logits / self.softcap)
        return F.cross_entropy(logits.float(), target_ids.reshape(-1), reduction="mean")


def newton_schulz(g: Tensor, steps: int, dtype: torch.dtype) -> Tensor:
    """Orthogonalises one matrix."""
    a, b, c = (3.4445, -4.7750, 2.0315)
    x = g.to(dtype)
    x /= x.norm() + 1e-7
    transposed = g.size(0) > g.size(1)
    if transposed:
        x = x.T
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if transposed else x


class Muon(torch.optim.Optimizer):
    """Updates one matrix after the other, through one flat buffer as on several ranks.

    Args:
        params: the matrices.
        config: plgolf's settings of Muon.
        compiled: compiles Newton-Schulz, as the reference does.
    """

    def __init__(self, params: Sequence[nn.Parameter], config: MuonConfig, *, compiled: bool) -> None:
        super().__init__(params, {"lr": config.lr, "momentum": config.momentum_start})
        self.config, self.steps_done = config, 0
        self.dtype = getattr(torch, config.newton_schulz_dtype)
        self.newton_schulz = torch.compile(newton_schulz, dynamic=False) if compiled else newton_schulz

    @torch.no_grad()
    def step(self) -> None:
        config, (group,) = self.config, self.param_groups
        frac = (
            min(self.steps_done / config.momentum_warmup_steps, 1.0) if config.momentum_warmup_steps else 1.0
        )
        momentum = (1 - frac) * config.momentum_start + frac * config.momentum
        self.steps_done += 1
        params = group["params"]
        total = sum(p.numel() for p in params)
        flat = torch.zeros(total, dtype=self.dtype, device=params[0].device)
        start = 0
        for p in params:
            state = self.state[p]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(p.grad)
            buf = state["momentum_buffer"]
            buf.mul_(momentum).add_(p.grad)
            update = self.newton_schulz(
                p.grad.add(buf, alpha=momentum), config.newton_schulz_steps, self.dtype
            )
            update = update * max(1, update.size(0) / update.size(1)) ** 0.5
            flat[start : start + p.numel()] = update.reshape(-1)
            start += p.numel()
        start = 0
        for p in params:
            update = flat[start : start + p.numel()].view_as(p).to(p.dtype)
            p.add_(update, alpha=-group["lr"])
            start += p.numel()


def make_optimizers(
    model: ReferenceGPT, settings: dict[str, Any], *, compiled: bool, fused: bool
) -> list[torch.optim.Optimizer]:
    """Makes Muon and an Adam for each kind of the other parameters.

    Args:
        model: model to train.
        settings: ``matrix``, ``embedding``, ``head`` and ``scalar``, as ``plgolf.optim.MuonAdam`` takes them.
        compiled: compiles Newton-Schulz.
        fused: of Adam.
    """

    def adam(params: list[nn.Parameter], config: AdamConfig) -> torch.optim.Adam:
        return torch.optim.Adam(params, lr=config.lr, betas=config.betas, eps=config.eps, fused=fused)

    in_blocks = list(model.blocks.named_parameters())
    is_small = {name: p.ndim < 2 or any(part in name for part in SMALL_PARAMETERS) for name, p in in_blocks}
    matrices = [p for name, p in in_blocks if not is_small[name]]
    scalars = [p for name, p in in_blocks if is_small[name]]
    if model.skip_weights.numel():
        scalars.append(model.skip_weights)
    optimizers: list[torch.optim.Optimizer] = [
        adam([model.tok_emb.weight], settings["embedding"]),
        Muon(matrices, settings["matrix"], compiled=compiled),
        adam(scalars, settings["scalar"]),
    ]
    if model.lm_head is not None:
        optimizers.insert(1, adam([model.lm_head.weight], settings["head"]))
    return optimizers


class TokenStream:
    """Tokens of all shards in order, endless; a shard is read whole when its first token is due."""

    def __init__(self, root: Path) -> None:
        self.files = sorted(root.glob("*_train_[0-9]*.bin"))
        self.index, self.position = 0, 0
        self.tokens = self.read()

    def read(self) -> Tensor:
        file = self.files[self.index]
        count = int(np.fromfile(file, dtype="<i4", count=256)[2])
        tokens = np.fromfile(file, dtype="<u2", count=count, offset=1024)
        return torch.from_numpy(tokens.astype(np.uint16, copy=False))

    def take(self, count: int) -> Tensor:
        chunks = []
        while count > 0:
            available = self.tokens.numel() - self.position
            if available <= 0:
                self.index, self.position = (self.index + 1) % len(self.files), 0
                self.tokens = self.read()
                continue
            chunks.append(self.tokens[self.position : self.position + min(count, available)])
            self.position += min(count, available)
            count -= min(count, available)
        return chunks[0] if len(chunks) == 1 else torch.cat(chunks)


def batches(
    root: Path, *, sequences: int, seq_len: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields micro-batches, each cut when it is needed."""
    stream = TokenStream(root)
    while True:
        local = stream.take(sequences * seq_len + 1).to(torch.int64)
        x, y = local[:-1].reshape(-1, seq_len), local[1:].reshape(-1, seq_len)
        yield x.to(device, non_blocking=True), y.to(device, non_blocking=True)


class ReferenceLoop:
    """Trains the model step by step.

    Args:
        gpt: gives the initial weights.
        settings: settings of the optimizers: ``matrix``, ``embedding``, ``head``, ``scalar``.
        root: folder of the shards.
        sequences: sequences in a micro-batch.
        seq_len: tokens in a sequence.
        accumulation: micro-batches in a step.
        device: device to train on.
        dtype: dtype to compute in; bfloat16 uses autocast.
        compiled: compiles the model and Newton-Schulz.
        fused: of Adam.
    """

    def __init__(
        self,
        gpt: GPT,
        settings: dict[str, Any],
        root: Path,
        *,
        sequences: int,
        seq_len: int,
        accumulation: int,
        device: torch.device,
        dtype: torch.dtype,
        compiled: bool,
        fused: bool,
    ) -> None:
        torch.set_float32_matmul_precision("high")
        self.base = ReferenceGPT(gpt, dtype).to(device)
        self.model = torch.compile(self.base, dynamic=False, fullgraph=True) if compiled else self.base
        self.optimizers = make_optimizers(self.base, settings, compiled=compiled, fused=fused)
        self.batches = batches(root, sequences=sequences, seq_len=seq_len, device=device)
        self.accumulation, self.device, self.dtype = accumulation, device, dtype

    def precision(self) -> AbstractContextManager[Any]:
        """Enters autocast, with flash as the only attention backend, where it computes in bfloat16."""
        stack = ExitStack()
        if self.dtype != torch.float32:
            stack.enter_context(torch.autocast(device_type=self.device.type, dtype=self.dtype))
            if self.device.type == "cuda":
                stack.enter_context(sdpa_kernel(SDPBackend.FLASH_ATTENTION))
        return stack

    def step(self) -> float:
        """Makes a step and returns its loss, which waits for the device."""
        train_loss = torch.zeros((), device=self.device)
        for _ in range(self.accumulation):
            x, y = next(self.batches)
            with self.precision():
                loss = self.model(x, y)
            train_loss += loss.detach()
            (loss * (1.0 / self.accumulation)).backward()
        for optimizer in self.optimizers:
            optimizer.step()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        return (train_loss / self.accumulation).item()
