"""Callbacks as a user might write them, for recipes of tests."""

from lightning.pytorch import Callback


class FailAt(Callback):
    """Fails in one hook once four steps are made."""

    def __init__(self, hook: str) -> None:
        def fail(trainer, *_):
            if trainer.global_step >= 4 and trainer.state.fn == "fit":
                raise RuntimeError(f"failed in {hook}")

        setattr(self, hook, fail)


class LogsOwn(Callback):
    """Logs a metric of its own at validations."""

    def on_validation_epoch_end(self, trainer, module):
        module.log("mine/metric", float(trainer.global_step))


class OddState(Callback):
    """Has a state that a checkpoint cannot hold."""

    def state_dict(self):
        return {"odd": lambda: None}
