"""Muon for the matrices and Adam for everything else, as one optimizer.

It is one ``torch.optim.Optimizer`` because Lightning's checkpoints and monitors expect one.
Muon: https://kellerjordan.github.io/posts/muon/; Adam: https://arxiv.org/abs/1412.6980.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam

from plgolf.distributed import ranks
from plgolf.errors import UserError
from plgolf.optim.config import AdamConfig, MuonConfig
from plgolf.optim.muon import muon_updates
from plgolf.optim.ownership import assign_owners, gather_states, gather_updates
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
        matrix_adam: Adam's settings for the matrices, which Muon then does not train; null for Muon.

    Raises:
        UserError: a group has no role or an unknown one, or ``matrix.heads`` does not fit the matrices.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        matrix: MuonConfig = MuonConfig(),
        embedding: AdamConfig = AdamConfig(lr=0.03),
        head: AdamConfig = AdamConfig(lr=0.008),
        scalar: AdamConfig = AdamConfig(lr=0.02),
        matrix_adam: AdamConfig | None = None,
    ) -> None:
        configs = {Role.EMBEDDING: embedding, Role.HEAD: head, Role.SCALAR: scalar}
        self.matrix, self.configs = matrix, {**configs, Role.MATRIX: matrix_adam or matrix}
        groups = [_with_settings(group, self.configs) for group in params]
        super().__init__(groups, {})
        for group in self.param_groups:
            if self._is_muon(group) and matrix.heads:
                from plgolf.optim.heads import blocks_of  # noqa: PLC0415 (packed where it is used)

                blocks_of(group, matrix.heads)

    def __getstate__(self) -> dict[str, Any]:
        # torch's version leaves these out, and a copy could not step.
        return {**super().__getstate__(), "matrix": self.matrix, "configs": self.configs}

    def _is_muon(self, group: dict[str, Any]) -> bool:
        return self.configs[group["role"]] is self.matrix

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Applies one update; first calls the closure, if any, for the gradients, and returns its result."""
        with torch.enable_grad():
            loss = closure() if closure else None
        # Adam works while the matrices' updates are sent to the other ranks.
        applications = [self._begin_muon(group) for group in self.param_groups if self._is_muon(group)]
        for group in self.param_groups:
            if not self._is_muon(group):
                self._adam_step(group)
        for apply in applications:
            apply()
        return loss

    def _adam_step(self, group: dict[str, Any]) -> None:
        params = [p for p in group["params"] if p.grad is not None]
        states = [self.state[p] for p in params]
        for p, state in zip(params, states, strict=True):
            if "exp_avg" not in state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
            if not group.get("bias_correction", True):
                state["step"].fill_(math.inf)
        grads = [p.grad for p in params if p.grad is not None]
        averages = [state["exp_avg"] for state in states]
        # The step has the sign of the average that the kernel computes.
        _decay(params, group, lambda: torch._foreach_lerp(averages, grads, 1 - group["betas"][0]))
        adam(
            params,
            grads,
            averages,
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
        owners = _owners(group, world_size)
        active = [index for index, p in enumerate(group["params"]) if p.grad is not None]
        params = [group["params"][index] for index in active]
        for index, p in zip(active, params, strict=True):
            if owners[index] != rank:
                # Another rank's state, from a checkpoint or consolidate_state_dict: stale from now on.
                self.state.pop(p, None)
        mine = {index: p for index, p in zip(active, params, strict=True) if owners[index] == rank}
        device = params[0].device
        updates = muon_updates(
            {index: p.grad for index, p in mine.items()},
            {index: self.state[p] for index, p in mine.items()},
            self.matrix,
            group,
            fused=device.type == "cuda",
        )
        dtype = getattr(torch, self.matrix.newton_schulz_dtype)
        shapes = {index: p.shape for index, p in zip(active, params, strict=True)}
        wait = gather_updates(updates, shapes, owners, dtype=dtype, device=device)

        def apply() -> None:
            updates = wait()
            _decay(params, group, lambda: updates)
            # One kernel on a GPU, as all updates have the dtype and layout of the parameters.
            torch._foreach_add_(params, updates, alpha=-group["lr"])

        return apply

    @torch.no_grad()
    def consolidate_state_dict(self) -> None:
        """Copies every rank's state of the matrices to rank 0, so that its ``state_dict`` is complete.

        All ranks must call this together; Lightning does so before it writes a checkpoint.
        """
        world_size = ranks()[1]
        for group in filter(self._is_muon, self.param_groups if world_size > 1 else ()):
            gather_states(self.state, group["params"], _owners(group, world_size))


def _decay(params: list[Tensor], group: dict[str, Any], updates: Callable[[], Sequence[Tensor]]) -> None:
    """Takes a share of the weights, of those that ``decay`` chooses; older checkpoints do not have both.

    ``updates`` returns what the step will subtract from the weights, of any positive scale.
    """
    rate = group["lr"] * group.get("weight_decay", 0.0)
    if rate and group.get("decay") == "cautious":
        from plgolf.optim.cautious import decay_cautiously  # noqa: PLC0415 (packed where it is used)

        decay_cautiously(params, updates(), rate)
    elif rate and params:
        torch._foreach_mul_(params, 1.0 - rate)


def _owners(group: dict[str, Any], world_size: int) -> tuple[int, ...]:
    return assign_owners(tuple(p.shape for p in group["params"]), world_size)


def _with_settings(group: dict[str, Any], configs: Mapping[Role, AdamConfig | MuonConfig]) -> dict[str, Any]:
    if not isinstance(group, dict) or "role" not in group:
        raise UserError("params must be groups with a role: plgolf.roles.param_groups(model)")
    if group["role"] not in tuple(Role):
        raise UserError(f"role must be one of {', '.join(Role)}, got {group['role']!r:.100}")
    config = configs[group["role"]]
    settings: dict[str, Any]
    if isinstance(config, MuonConfig):
        settings = {"momentum": config.momentum_start, "momentum_factor": 1.0, "step": 0}
        settings["mixture"] = float(bool(config.mixture))  # 0 cannot be scheduled.
    else:
        names = ("betas", "eps", "bias_correction")
        settings = {"fused": True, **{name: getattr(config, name) for name in names}}
    shared = {name: getattr(config, name) for name in ("lr", "weight_decay", "decay")}
    return {**shared, **settings, **group}
