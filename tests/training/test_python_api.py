"""Module and datamodule in a Trainer of the user's own, and without one."""

import pytest
import torch
from golden_run import Record, golden_data, golden_module, trainer
from runs import load

from plgolf.errors import UserError
from plgolf.training import GolfModule, RunCheckpoint, ShardDataModule


def test_validate_and_test_return_the_scores(tmp_path):
    [scores] = trainer(tmp_path).validate(golden_module(), golden_data(), verbose=False)
    assert set(scores) == {"val/loss", "val/bpb"} and scores["val/bpb"] > 1.0
    [tested] = trainer(tmp_path).test(golden_module(), golden_data(), verbose=False)
    assert tested == {f"test/{name.removeprefix('val/')}": value for name, value in scores.items()}


def test_predict_returns_the_loss_of_each_target(tmp_path):
    module, data = golden_module(), golden_data(val_batch_sequences=9)
    nats = torch.cat(trainer(tmp_path).predict(module, data))
    assert nats.shape == (84, 64)
    [scores] = trainer(tmp_path).validate(module, data, verbose=False)
    assert nats.double().mean().item() == pytest.approx(scores["val/loss"], rel=1e-6)


def test_a_module_returns_logits():
    module = golden_module()
    ids = torch.tensor([[1, 5, 9]])
    torch.testing.assert_close(module(ids), module.gpt(ids))
    torch.testing.assert_close(module(ids.to(torch.uint16)), module.gpt(ids))


def test_a_checkpoint_loads_into_a_module(tmp_path):
    module = golden_module("untied")
    save = RunCheckpoint(every_steps=1)
    trainer(tmp_path, save, max_steps=1, enable_checkpointing=True).fit(module, golden_data("untied"))
    path = tmp_path / "step-000001.ckpt"
    loaded = GolfModule.load_from_checkpoint(path, nonfinite="skip")
    assert loaded.gpt.config == module.gpt.config and loaded.nonfinite == "skip"
    assert loaded.gpt.state_dict().keys() == module.gpt.state_dict().keys()
    assert all(torch.equal(t, loaded.state_dict()[n]) for n, t in load(path)["state_dict"].items())
    with pytest.raises(UserError, match="takes the architecture from the file"):
        GolfModule.load_from_checkpoint(path, gpt=module.gpt.config)
    with pytest.raises(UserError, match="nowhere.ckpt"):
        GolfModule.load_from_checkpoint(tmp_path / "nowhere.ckpt")


def test_a_datamodule_works_without_a_trainer():
    data = golden_data(global_batch_tokens=16 * 64, micro_batch_sequences=4)
    data.prepare_data()
    data.setup("fit")
    step = next(iter(data.train_dataloader()))
    assert len(step) == 4 and step[0].input_ids.shape == (4, 64)
    assert next(iter(data.val_dataloader())).input_ids.shape[1] == 64


def losses(folder, **settings):
    record = Record()
    trainer(folder, record, max_steps=4, max_epochs=-1, **settings).fit(golden_module(), golden_data())
    return record.losses


def test_overfit_batches_repeats_the_same_steps(tmp_path):
    asked = ({}, {"overfit_batches": 1}, {"overfit_batches": 2})
    new, same, two = (losses(tmp_path, **settings) for settings in asked)
    assert new[0] == same[0] == two[0] and new[1] == two[1] != same[1]
    assert same[3] < same[2] < same[1] < same[0]
    assert len(two) == 4 and two[2] < two[0] and two[2] != new[2]
    with pytest.raises(UserError, match="trainer.overfit_batches must be a number of steps"):
        losses(tmp_path, overfit_batches=0.5)


class SingleBatches(ShardDataModule):
    def train_dataloader(self):
        return self.val_dataloader()


def test_a_loader_of_single_batches_is_refused(tmp_path):
    with pytest.raises(UserError, match="must yield a sequence of Batch for each step, got one Batch"):
        trainer(tmp_path, max_steps=1).fit(golden_module(), golden_data(kind=SingleBatches))
