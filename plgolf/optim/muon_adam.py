"""Muon for the matrices and Adam for everything else, as one optimizer.

It is one ``torch.optim.Optimizer`` because Lightning's checkpoints and monitors expect one.
Muon: https://kellerjordan.github.io/posts/muon/; Adam: https://arxiv.org/abs/1412.6980.
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
from plgolf.optim.muon import direction, muon_updates
from plgolf.optim.ownership import assign_owners, gather_updates
from plgolf.optim.schedule import momentum_at
from plgolf.roles import Role


class MuonAdam(torch.optim.Optimizer):
    """Muon on the MATRIX group, Adam on the EMBEDDING, HEAD and SCALAR groups.

    Under ``torch.distributed`` every rank must have the same (averaged) gradients. Each matrix belongs to
    one rank, which keeps its momentum and orthogonalises its update; all ranks apply the gathered updates.

    Args:
        params: groups with a ``role``, from ``plgolf.roles.param_groups``.
        matrix: Muon's settings for the matrices.
        embedding: Adam's settings for the token embedding.
        head: Adam's settings for an untied head.
        scalar: Adam's settings for gains, scales and mixing weights.

    Raises:
        UserError: a group has no role or an unknown one.
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
        groups = [_with_settings(group, matrix, adam_configs) for group in params]
        self.matrix = matrix
        super().__init__(groups, {})

    def __getstate__(self) -> dict[str, Any]:
        # torch's version leaves ``matrix`` out, and a copy could not step.
        return {**super().__getstate__(), "matrix": self.matrix}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Applies one update; first calls the closure, if any, for the gradients, and returns its result."""
        with torch.enable_grad():
            loss = closure() if closure else None
        matrices = [group for group in self.param_groups if group["role"] == Role.MATRIX]
        # Adam works while the matrices' updates are sent to the other ranks.
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
        _decay(params, group)
        states = [self.state[p] for p in params]
        adam(
            params,
            [p.grad for p in params if p.grad is not None],
            [s["exp_avg"] for s in states],
            [s["exp_avg_sq"] for s in states],
            [],
            [s["step"] for s in states],
            # Fused is the fastest on a CPU, too; foreach is the slowest there.
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
        """Computes this rank's updates and sends them; returns a function that applies those of all ranks."""
        if all(p.grad is None for p in group["params"]):  # A skipped step.
            return lambda: None
        group["momentum"] = momentum_at(
            group["step"],
            start=self.matrix.momentum_start,
            end=self.matrix.momentum,
            warmup_steps=self.matrix.momentum_warmup_steps,
        ) * group.get("momentum_factor", 1.0)
        group["step"] += 1
        rank, world_size = ranks()
        dtype = getattr(torch, self.matrix.newton_schulz_dtype)
        owned = zip(group["params"], _owners(group, world_size), strict=True)
        active = [(p, owner) for p, owner in owned if p.grad is not None]
        for p, owner in active:
            if owner != rank:
                # Another rank's momentum, from a checkpoint or consolidate_state_dict: stale from now on.
                self.state.pop(p, None)
            elif "momentum_buffer" not in self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        device = active[0][0].device
        mine = {index: p for index, (p, owner) in enumerate(active) if owner == rank}
        updates = muon_updates(
            {index: p.grad for index, p in mine.items() if p.grad is not None},
            {index: self.state[p]["momentum_buffer"] for index, p in mine.items()},
            momentum=group["momentum"],
            stages=direction(self.matrix, dtype=dtype, fused=device.type == "cuda"),
        )
        shapes, owners = [p.shape for p, _ in active], [owner for _, owner in active]
        wait = gather_updates(updates, shapes, owners, dtype=dtype, device=device)
        params = [p for p, _ in active]

        def apply() -> None:
            _decay(params, group)
            # One kernel on a GPU, as all updates have the dtype and layout of the parameters.
            torch._foreach_add_(params, wait(), alpha=-group["lr"])

        return apply

    @torch.no_grad()
    def consolidate_state_dict(self) -> None:
        """Copies every rank's momentum to rank 0, so that its ``state_dict`` is complete.

        All ranks must call this together; Lightning does so before it writes a checkpoint.
        """
        rank, world_size = ranks()
        if world_size == 1:
            return
        for group in self.param_groups:
            if group["role"] != Role.MATRIX or group["step"] == 0:
                continue
            for p, owner in zip(group["params"], _owners(group, world_size), strict=True):
                buffer = self.state[p].get("momentum_buffer") if owner == rank else None
                buffer = torch.zeros_like(p) if buffer is None else buffer
                dist.broadcast(buffer, src=owner)
                if rank == 0:
                    self.state[p]["momentum_buffer"] = buffer


def _decay(params: list[Tensor], group: dict[str, Any]) -> None:
    """Multiplies parameters by 1 - learning rate * weight decay, which older checkpoints do not have."""
    weight_decay = group.get("weight_decay", 0.0)
    if weight_decay and params:
        torch._foreach_mul_(params, 1.0 - group["lr"] * weight_decay)


def _owners(group: dict[str, Any], world_size: int) -> tuple[int, ...]:
    return assign_owners(tuple(p.shape for p in group["params"]), world_size)


def _with_settings(
    group: dict[str, Any], matrix: MuonConfig, adam_configs: dict[Role, AdamConfig]
) -> dict[str, Any]:
    if not isinstance(group, dict) or "role" not in group:
        raise UserError("params must be groups with a role: plgolf.roles.param_groups(model)")
    if group["role"] not in tuple(Role):
        raise UserError(f"role must be one of {', '.join(Role)}, got {group['role']!r:.100}")
    role = Role(group["role"])
    settings: dict[str, Any]
    config = matrix if role is Role.MATRIX else adam_configs[role]
    if isinstance(config, MuonConfig):
        settings = {"momentum": matrix.momentum_start, "momentum_factor": 1.0, "step": 0}
    else:
        settings = {"betas": config.betas, "eps": config.eps, "fused": True}
    return {"lr": config.lr, "weight_decay": config.weight_decay, **settings, **group}
