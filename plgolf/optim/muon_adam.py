"""Muon for the matrices and Adam for everything else, as one optimizer.

One ``torch.optim.Optimizer`` because Lightning's accumulation, clipping, checkpoints and monitors all
count on one. Muon: https://kellerjordan.github.io/posts/muon/; Adam: https://arxiv.org/abs/1412.6980.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim.adam import adam

from plgolf.distributed import ranks
from plgolf.errors import UserError
from plgolf.optim.config import AdamConfig, MuonConfig
from plgolf.optim.orthogonalize import orthogonalize_all
from plgolf.optim.ownership import assign_owners, gather_updates
from plgolf.optim.schedule import momentum_at
from plgolf.roles import Role


class MuonAdam(torch.optim.Optimizer):
    """Muon on the MATRIX group, Adam on the EMBEDDING, HEAD and SCALAR groups.

    Under ``torch.distributed`` every rank must hold the same (averaged) gradients. The matrices are
    shared out over the ranks: a rank keeps the momentum and does the orthogonalisation of its own only,
    and all ranks apply the same gathered update. Matrices of one shape are orthogonalised as a stack.

    Args:
        params: groups with a ``role``, as ``plgolf.roles.param_groups`` makes them.
        matrix: Muon's settings.
        embedding: Adam's settings for the token embedding.
        head: Adam's settings for an untied head.
        scalar: Adam's settings for gains, scales and mixing weights.

    Raises:
        UserError: a group has no role, or one that is none.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        matrix: MuonConfig = MuonConfig(),
        embedding: AdamConfig = AdamConfig(lr=0.03),
        head: AdamConfig = AdamConfig(lr=0.008),
        scalar: AdamConfig = AdamConfig(lr=0.02),
    ) -> None:
        adam_configs = {Role.EMBEDDING: embedding, Role.HEAD: head, Role.SCALAR: scalar}
        groups = []
        for group in params:
            if not isinstance(group, dict) or "role" not in group:
                raise UserError("params must be groups with a role: plgolf.roles.param_groups(model)")
            if group["role"] not in tuple(Role):
                raise UserError(f"role must be one of {', '.join(Role)}, got {group['role']!r:.100}")
            role = Role(group["role"])
            settings = (
                {"lr": matrix.lr, "momentum": matrix.momentum_start, "step": 0}
                if role is Role.MATRIX
                else {
                    "lr": adam_configs[role].lr,
                    "betas": adam_configs[role].betas,
                    "eps": adam_configs[role].eps,
                    "fused": True,
                }
            )
            groups.append({**settings, **group})
        self.matrix = matrix
        super().__init__(groups, {})

    def __getstate__(self) -> dict[str, Any]:
        # torch's own knows of nothing else, and a copy could not step.
        return {**super().__getstate__(), "matrix": self.matrix}

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drops the gradients, or sets them to zero."""
        if not set_to_none:
            super().zero_grad(set_to_none=False)
            return
        # torch's own says so to profilers, which takes twice as long as the rest.
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Applies one update; ``closure``, if given, recomputes the loss first."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        matrices = [group for group in self.param_groups if group["role"] == Role.MATRIX]
        # Their updates are on the way to the other ranks while Adam works.
        applications = [self._begin_muon(group) for group in matrices]
        for group in self.param_groups:
            if group["role"] != Role.MATRIX:
                self._adam_step(group)
        for apply in applications:
            apply()
        return loss

    def _adam_step(self, group: dict[str, Any]) -> None:
        params = [p for p in group["params"] if p.grad is not None]
        for p in params:
            if not self.state[p]:
                self.state[p] = {
                    "step": torch.zeros((), dtype=torch.float32, device=p.device),
                    "exp_avg": torch.zeros_like(p),
                    "exp_avg_sq": torch.zeros_like(p),
                }
        states = [self.state[p] for p in params]
        adam(
            params,
            [p.grad for p in params if p.grad is not None],
            [s["exp_avg"] for s in states],
            [s["exp_avg_sq"] for s in states],
            [],
            [s["step"] for s in states],
            # Fused is the fastest on CPU too; foreach is the slowest there.
            fused=True,
            foreach=False,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=0.0,
            eps=group["eps"],
            maximize=False,
        )

    def _begin_muon(self, group: dict[str, Any]) -> Callable[[], None]:
        """Works out this rank's updates and sends them off; what it returns applies everybody's."""
        if all(p.grad is None for p in group["params"]):  # A step that is skipped.
            return lambda: None
        group["momentum"] = momentum_at(
            group["step"],
            start=self.matrix.momentum_start,
            end=self.matrix.momentum,
            warmup_steps=self.matrix.momentum_warmup_steps,
        )
        group["step"] += 1
        rank, world_size = ranks()
        dtype = getattr(torch, self.matrix.newton_schulz_dtype)
        shapes = tuple(p.shape for p in group["params"])
        owned = list(zip(group["params"], assign_owners(shapes, world_size), strict=True))
        active = [(p, owner) for p, owner in owned if p.grad is not None]
        for p, owner in active:
            if owner != rank:
                # Another rank's momentum, left from a checkpoint or a consolidation: stale from now on.
                self.state.pop(p, None)
            elif "momentum_buffer" not in self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        mine = {index: p for index, (p, owner) in enumerate(active) if owner == rank}
        directions = nesterov(
            [p.grad for p in mine.values() if p.grad is not None],
            [self.state[p]["momentum_buffer"] for p in mine.values()],
            group["momentum"],
        )
        # What several ranks gather is cast and laid out as it arrives.
        on_one_gpu = world_size == 1 and active[0][0].is_cuda
        wait = gather_updates(
            orthogonalize_all(
                dict(zip(mine, directions, strict=True)),
                steps=self.matrix.newton_schulz_steps,
                dtype=dtype,
                finish=scaled_like_params if on_one_gpu else scaled,
            ),
            [p.shape for p, _ in active],
            [owner for _, owner in active],
            dtype=dtype,
            device=active[0][0].device,
        )
        # On a GPU one kernel for all of them.
        return lambda: torch._foreach_add_([p for p, _ in active], wait(), alpha=-group["lr"])

    @torch.no_grad()
    def consolidate_state_dict(self) -> None:
        """Brings every rank's momentum to rank 0, so that its ``state_dict`` is whole.

        All ranks must call it; Lightning does before it writes a checkpoint.
        """
        rank, world_size = ranks()
        if world_size == 1:
            return
        for group in self.param_groups:
            if group["role"] != Role.MATRIX or group["step"] == 0:
                continue
            params = group["params"]
            owners = assign_owners(tuple(p.shape for p in params), world_size)
            for p, owner in zip(params, owners, strict=True):
                buffer = self.state[p].get("momentum_buffer") if owner == rank else None
                buffer = torch.zeros_like(p) if buffer is None else buffer
                dist.broadcast(buffer, src=owner)
                if rank == 0:
                    self.state[p]["momentum_buffer"] = buffer


def scaled(stack: Tensor) -> Tensor:
    """Has tall matrices (count, rows, cols) move more: outputs change by as much whatever the shape."""
    larger: float = max(1.0, stack.size(1) / stack.size(2)) ** 0.5
    return stack * larger


def scaled_like_params(stack: Tensor) -> Tensor:
    """Does the same as float32, in the parameters' layout: else a GPU takes a kernel to apply each matrix."""
    return scaled(stack).to(torch.float32, memory_format=torch.contiguous_format)


def nesterov(grads: list[Tensor], buffers: list[Tensor], momentum: float) -> list[Tensor]:
    """Moves momentum on, in place, and returns the directions that Nesterov's variant goes in.

    Args:
        grads: of any shapes.
        buffers: of the same shapes.
        momentum: share of a buffer that stays.
    """
    if grads and grads[0].is_cuda:
        return fused_nesterov(grads, buffers, momentum)
    pairs = zip(grads, buffers, strict=True)
    # All of one matrix, then of the next: a processor's cache holds one.
    return [grad.add(buffer.mul_(momentum).add_(grad), alpha=momentum) for grad, buffer in pairs]


def fused_nesterov(grads: list[Tensor], buffers: list[Tensor], momentum: float) -> list[Tensor]:
    """Does the same in three kernels for all matrices: a GPU waits for launches, not for memory."""
    torch._foreach_mul_(buffers, momentum)
    torch._foreach_add_(buffers, grads)
    return list(torch._foreach_add(grads, buffers, alpha=momentum))
