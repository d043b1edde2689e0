"""Compile warm-up: full steps before the clock starts, without any effect on the run."""

import copy
import gc
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from plgolf.errors import UserError
from plgolf.model.depth import phases
from plgolf.training.datamodule import ShardDataModule
from plgolf.training.logs.screen import progress, say
from plgolf.training.optimizer_settings import set_mode
from plgolf.training.run import Run


class CompileWarmup(Callback):
    """Runs full steps on random tokens in each order of layers, then restores weights and optimizer state.

    They use the strategy, which warms up communication too. DDP splits gradients into other buckets from the
    second backward pass on, which changes the order of sums. A run on several ranks therefore makes at least
    one warm-up step: otherwise a resumed run would differ from an uninterrupted one.

    Afterwards the garbage collector ignores the objects that exist (modules, compiled code), which stay for
    the run anyway: with PyTorch and Lightning loaded a full collection takes tenths of a second.

    Args:
        steps: number of steps before the clock starts, in each order of layers; 0 for none on a single rank.
    """

    def __init__(self, steps: int = 0) -> None:
        if steps < 0:
            raise UserError(f"steps must be at least 0, got {steps}")
        self.steps = steps

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        steps = max(self.steps, int(trainer.world_size > 1))
        if steps:
            self._run(steps, trainer, pl_module)
        gc.collect()
        gc.freeze()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        gc.unfreeze()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        gc.unfreeze()

    def _run(self, steps: int, trainer: Trainer, pl_module: Any) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, ShardDataModule)
        if self.steps:
            say(f"warm-up: {self.steps} steps")
        optimizer = trainer.optimizers[0]
        set_mode([optimizer], training=True)
        weights = {name: tensor.clone() for name, tensor in pl_module.state_dict().items()}
        state = copy.deepcopy(optimizer.state_dict())
        # A generator of its own leaves the run's random numbers as they are.
        generator = torch.Generator().manual_seed(trainer.global_rank)
        count = data.plan.sequences * data.seq_len + 1
        run: Run = pl_module.run
        with run.clock.phase("warmup"):
            visits, fractions = pl_module.gpt.visits, phases(pl_module.gpt.config)
            shown = progress("warm-up", steps * len(fractions), "steps")
            run.warming_up = True
            for done in range(steps * len(fractions)):
                pl_module.gpt.at(fractions[done // steps])
                tokens = torch.randint(data.vocab_size, (count,), generator=generator)
                batch = data.train_stream.batch_of(tokens.to(torch.uint16).numpy())
                trainer.strategy.training_step((batch.to(pl_module.device),), done)
                optimizer.step()
                optimizer.zero_grad()
                shown.show(done + 1)
            run.warming_up = False
            pl_module.gpt.visits = visits
            pl_module.load_state_dict(weights)
            optimizer.load_state_dict(state)
