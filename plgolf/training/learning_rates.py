"""The learning rates of a run: what each group began with, times one factor for all."""

from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR


class LearningRates(LambdaLR):
    """A LambdaLR that asks for a step's factor once, instead of for each group."""

    def get_lr(self) -> list[float | Tensor]:
        factor = self.lr_lambdas[0](self.last_epoch)
        return [base * factor for base in self.base_lrs]
