"""How hooks are called within a step: as Lightning does, but for profilers and debug logs."""

from collections.abc import Callable
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

_OF_BOTH = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)
"""Hooks of a step that callbacks have, and after them the module."""


class Hooks:
    """Who does something in which hook of a step, looked up at its epoch's start and when callbacks change.

    What a callback hangs onto itself later counts from the next epoch on.

    Args:
        trainer: the trainer, in a fit.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer, self._module = trainer, trainer.lightning_module
        # Of the module, and not by nn.Module's __setattr__, which looks for parameters.
        self._with_name = vars(self._module)
        self._callbacks: list[Callback] = []
        self._of_callbacks: dict[str, list[Callable[..., Any]]] = {}
        self._of_module = {name: overridden(self._module, name, LightningModule) for name in _OF_BOTH}
        self._find()

    def _find(self) -> None:
        self._callbacks = list(self._trainer.callbacks)  # type: ignore[attr-defined]
        for name in _OF_BOTH:
            hooks = [overridden(callback, name, Callback) for callback in self._callbacks]
            self._of_callbacks[name] = [hook for hook in hooks if hook is not None]

    def call(self, name: str, *args: Any) -> Any:
        """Calls a hook of all callbacks and of the module; ``log`` says that it was called from there.

        Returns:
            What the module's hook returns.
        """
        trainer, module, own = self._trainer, self._module, self._of_module[name]
        if trainer.callbacks != self._callbacks:  # type: ignore[attr-defined]
            self._find()
        hooks = self._of_callbacks[name]
        if not hooks and own is None:
            return None
        with_name = self._with_name
        outer, with_name["_current_fx_name"] = with_name["_current_fx_name"], name
        for hook in hooks:
            hook(trainer, module, *args)
        output = own(*args) if own else None
        with_name["_current_fx_name"] = outer
        return output

    def call_one(self, name: str, hook: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Calls a method that does something in any case, and of which ``log`` is to say ``name``."""
        with_name = self._with_name
        outer, with_name["_current_fx_name"] = with_name["_current_fx_name"], name
        output = hook(*args, **kwargs)
        with_name["_current_fx_name"] = outer
        return output


def overridden(owner: Any, name: str, base: type) -> Callable[..., Any] | None:
    """Returns the method that an owner has in the place of its base's; None if it has none."""
    method: Any = getattr(owner, name)
    is_the_bases = getattr(method, "__func__", None) is getattr(base, name)
    return method if callable(method) and not is_the_bases else None
