"""The learning rates of a run are LambdaLR's, whatever an optimizer keeps them in."""

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR

from plgolf.training.learning_rates import LearningRates


@pytest.mark.parametrize("kept", [float, torch.tensor])
def test_as_lambda_lr(kept):
    def made(kind):
        groups = [{"params": [torch.nn.Parameter(torch.ones(2))], "lr": kept(lr)} for lr in (0.5, 0.03)]
        optimizer = torch.optim.SGD(groups)
        return optimizer, kind(optimizer, lambda step: 1 / (1 + step))

    (ours, scheduler), (theirs, lambda_lr) = made(LearningRates), made(LambdaLR)
    held = [group["lr"] for group in ours.param_groups]
    for _ in range(4):
        for optimizer, each in ((ours, scheduler), (theirs, lambda_lr)):
            assert optimizer.step() is None
            each.step()
        assert [g["lr"] for g in ours.param_groups] == [g["lr"] for g in theirs.param_groups]
        assert scheduler.get_last_lr() == lambda_lr.get_last_lr()
        # Theirs notes, besides, whether it was asked for rates from within a step.
        assert scheduler.state_dict().items() <= lambda_lr.state_dict().items()
    assert scheduler.get_last_lr()[0] == pytest.approx(0.1)
    if kept is torch.tensor:
        assert all(group["lr"] is tensor for group, tensor in zip(ours.param_groups, held, strict=True))
