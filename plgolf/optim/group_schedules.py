"""Schedules of several numbers of an optimizer's groups; imported where a recipe asks for them."""

from collections.abc import Callable, Mapping
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from plgolf.errors import UserError
from plgolf.optim.schedule import Schedule
from plgolf.progress import RunProgress


class GroupSchedules(LambdaLR):
    """Sets learning rate and other numbers of every group before each step: base value times a factor.

    A group that computes a number itself, such as ``MuonAdam`` its momentum, takes the factor, as
    ``momentum_factor``.

    Args:
        optimizer: newly made, so that its groups have the base values.
        progress: returns how far the run is after a number of steps.
        lr: schedule of the learning rates.
        others: schedules by name of the number, such as ``weight_decay``, of all groups, or by role and name,
            such as ``matrix/weight_decay``, of that role's; a number may have both.

    Raises:
        UserError: a number is 0 in every group, or missing, so that its schedule would change nothing.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        progress: Callable[[int], RunProgress],
        lr: Schedule,
        others: Mapping[str, Schedule],
    ) -> None:
        self._progress, self._others = progress, others
        self._keys = {name: _keys(optimizer, name) for name in others}
        self._bases = [dict(group) for group in optimizer.param_groups]
        super().__init__(optimizer, lambda step: lr.factor(progress(step)))

    def step(self, epoch: int | None = None) -> None:
        """Sets the numbers of the next step."""
        super().step(epoch)
        self._set_others()

    def state_dict(self) -> dict[str, Any]:
        """Returns the number of finished steps, from which everything else follows."""
        return {"last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues after a number of steps; the groups may have been loaded with other values."""
        self.last_epoch = state_dict["last_epoch"]
        self._set_others()

    def _set_others(self) -> None:
        progress = self._progress(self.last_epoch)
        for index, (group, base) in enumerate(zip(self.optimizer.param_groups, self._bases, strict=True)):
            factors: dict[str, float] = {}
            for name, schedule in self._others.items():
                if key := self._keys[name][index]:
                    factors[key] = factors.get(key, 1.0) * schedule.factor(progress)
            for key, factor in factors.items():
                group[key] = base[key] * factor


def _keys(optimizer: Optimizer, name: str) -> list[str | None]:
    """Returns the key of a number in each group, None where it is 0, missing, or not a number."""
    role, _, number = name.rpartition("/")

    def key_of(group: dict[str, Any]) -> str | None:
        keys = (f"{number}_factor", number) if role in ("", group.get("role")) else ()
        return next((key for key in keys if isinstance(group.get(key), int | float) and group[key]), None)

    keys = [key_of(group) for group in optimizer.param_groups]
    if number == "lr" or not any(keys):
        raise UserError(f"model.other_schedules must name numbers of the optimizer's groups, got {name:.100}")
    return keys
