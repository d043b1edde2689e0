"""The learning rates of a run: what each group began with, times one factor for all."""

from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR


class LearningRates(LambdaLR):
    """A LambdaLR that asks for a step's factor once, instead of for each group, and looks for no misuse."""

    def step(self, epoch: int | None = None) -> None:
        self._step_count += 1
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        factor = self.lr_lambdas[0](self.last_epoch)
        self._last_lr = [base * factor for base in self.base_lrs]
        for group, lr in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            if isinstance(group["lr"], Tensor):  # A compiled step may hold it.
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr
