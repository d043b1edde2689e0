import itertools
import math
from itertools import pairwise

import pytest
import torch
from golden_run import Record, golden_data, golden_module, trainer
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import LambdaCallback, ModelCheckpoint
from processes import ranks, succeed
from runs import load

from plgolf.data.loader import BatchLoader
from plgolf.distributed import all_gather_floats
from plgolf.errors import RunError
from plgolf.training import GolfModule, RunCheckpoint, ShardDataModule, TrainClock
from plgolf.training.health.nonfinite import StepStatistics, fused_norms, norms_of
from plgolf.training.timing.pace import Pace


def walk(pace, seconds_per_step, end):
    """Goes on step by step to the end; returns by step whether it was read after."""
    read, seconds = [], 0.0
    while seconds < end:
        seconds += seconds_per_step[len(read) % len(seconds_per_step)]
        read.append(pace.is_due)
        if pace.is_due:
            pace.read(seconds)
        else:
            pace.advance()
    return read


def test_without_seconds_apart_every_step_is_read():
    assert all(walk(Pace(0.0), [0.1], 5.0))


def test_readings_are_half_a_second_apart_but_for_the_first_and_the_last_steps():
    read = walk(Pace(0.5, end=20.0), [0.05], 20.0)
    steps = [step for step, was in enumerate(read, 1) if was]
    apart = [after - before for before, after in pairwise(steps)]
    assert steps[:10] == list(range(1, 11))
    assert set(apart[10:-6]) <= {9, 10}
    assert steps[-2:] == [len(read) - 1, len(read)]


@given(
    apart=st.floats(0, 3),
    steps=st.lists(st.floats(1e-3, 1.0), min_size=1, max_size=7),
    end=st.floats(1.0, 20.0),
)
def test_a_run_never_goes_far_beyond_its_end(apart, steps, end):
    pace = Pace(apart, end=end)
    seconds, since = 0.0, 0
    for number in range(100_000):
        seconds += steps[number % len(steps)]
        due = pace.is_due
        since += 1
        assert since <= 32
        if due:
            assert pace.read(seconds) == since
            if seconds >= end:
                # At the pace before, the last interval was to take half of what was left at most: its steps
                # took longer by as much as the slowest do than the quickest, or it was a single one.
                assert seconds - end <= max(*steps, since * (max(steps) - 2 * min(steps))) + 1e-9
                return
            since = 0
        else:
            pace.advance()
    raise AssertionError(seconds)


def test_the_pace_is_the_mean_between_readings():
    pace = Pace(0.5)
    for number in range(10):
        assert pace.read(0.1 * (number + 1)) == 1
    taken = 0
    while not pace.is_due:
        pace.advance()
        taken += 1
    assert taken == 4
    assert pace.read(1.0 + 0.2 * 5) == 5
    assert abs(pace.seconds_per_step - 0.2) < 1e-9


@pytest.mark.slow
def test_ranks_that_agree_now_and_then_make_the_same_steps(tmp_path):
    ends = []
    for apart in (0.0, 3600.0):
        record, clock, module = Record(), TrainClock(agree_seconds=apart), golden_module(warmdown_steps=20)
        fit = trainer(tmp_path, clock, record, max_steps=60, log_every_n_steps=25)
        fit.fit(module, golden_data())
        assert len(clock.step_seconds) == 60
        assert sum(clock.step_seconds) == pytest.approx(clock.elapsed_seconds)
        ends.append((record, module))
    (each, alone), (some, now_and_then) = ends
    assert each.factors == some.factors
    for name, tensor in alone.gpt.state_dict().items():
        assert torch.equal(tensor, now_and_then.gpt.state_dict()[name]), name
    # Ten one by one, then those that are logged, each 32nd since, and the last.
    fresh = [step for step in range(1, 61) if each.losses[step - 1] == some.losses[step - 1]]
    assert fresh == [*range(1, 11), 25, 50, 60]
    assert some.losses[10:24] == [some.losses[9]] * 14


class Broken(GolfModule):
    """Its loss is NaN in step 13."""

    def micro_batch_loss(self, batch):
        loss = super().micro_batch_loss(batch)
        return loss * math.nan if self.trainer.global_step == 12 else loss


SAVERS = {
    "by steps": lambda folder: RunCheckpoint(every_seconds=None, every_steps=6, keep=99),
    "by seconds": lambda folder: RunCheckpoint(every_seconds=4.0, keep=99),
    "Lightning's": lambda folder: ModelCheckpoint(folder, every_n_train_steps=4, save_top_k=-1),
}


def broken_fit(folder, world_size, saver):
    module, many = golden_module(), {"devices": world_size, "strategy": "ddp"} if world_size > 1 else {}
    module.__class__ = Broken
    clock, seconds = TrainClock(agree_seconds=3600.0), itertools.count()
    clock.now = lambda: float(next(seconds))
    run = trainer(folder, SAVERS[saver](folder), clock, max_steps=40, enable_checkpointing=True, **many)
    try:
        run.fit(module, golden_data())
    except RunError as error:
        (folder / f"error{run.global_rank}").write_text(str(error))


@pytest.mark.parametrize("saver", SAVERS)
@pytest.mark.parametrize("world_size", [1, 2])
def test_a_loss_that_is_no_number_is_found_later_and_named_and_in_no_checkpoint(world_size, saver, tmp_path):
    succeed(ranks(broken_fit, world_size, tmp_path, world_size, saver, folder=tmp_path))
    errors = {(tmp_path / f"error{rank}").read_text() for rank in range(world_size)}
    [error] = errors
    assert error.startswith("step 13: the loss of rank 0 is nan in micro-batch 1 of 1 (training tokens ")
    saved = [load(path) for path in tmp_path.glob("*.ckpt")]
    assert len(saved) >= 2 and max(file["global_step"] for file in saved) <= 12
    assert all(tensor.isfinite().all() for file in saved for tensor in file["state_dict"].values())


def test_a_run_that_epochs_end_between_readings_is_looked_at_before_its_export(tmp_path):
    module, exported = golden_module(), []
    module.__class__ = Broken
    export = LambdaCallback(on_train_end=lambda fit, module: exported.append(fit.global_step))
    clock = TrainClock(agree_seconds=3600.0)
    run = trainer(tmp_path, clock, export, max_steps=-1, max_epochs=1, limit_train_batches=15)
    with pytest.raises(RunError, match="step 13: the loss of rank 0 is nan"):
        run.fit(module, golden_data())
    assert not exported


def test_values_that_are_read_together_belong_to_their_steps(tmp_path):
    """Also with a loader whose steps have different numbers of micro-batches."""

    class Data(ShardDataModule):
        def train_dataloader(self):
            return BatchLoader(lambda step: self.train_stream.step(step)[: 1 + step % 3], 50)

    seen = []
    for apart in (0.0, 3600.0):
        module, data = golden_module(), golden_data(global_batch_tokens=3 * 8 * 64, kind=Data)
        fit = trainer(tmp_path, TrainClock(agree_seconds=apart), max_steps=20, max_epochs=-1)
        fit.fit(module, data)
        seen.append((module.run.train_loss, module.run.gradient_norm))
    assert seen[0] == seen[1]


def test_a_step_without_values_has_none_of_earlier_steps():
    statistics = StepStatistics({})
    statistics.begin()
    statistics.add_loss(torch.tensor(3.0))
    statistics.end()
    statistics.begin()
    statistics.end()
    unread = statistics.take()
    loss, norm = statistics.read(None, unread, [statistics.stacked(unread).tolist()])
    assert math.isnan(loss) and norm == 0.0 and not statistics.take()


def test_norms_by_dtype_are_those_of_each_tensor_in_their_order():
    generator = torch.Generator().manual_seed(0)
    dtypes = (torch.bfloat16, torch.float32, torch.bfloat16, torch.float32)
    tensors = {f"p{i}": torch.randn(9, i + 1, generator=generator).to(d) for i, d in enumerate(dtypes)}
    tensors["p3"][0, 0] = torch.inf
    found = fused_norms(tensors)
    assert list(found) == list(tensors) == list(norms_of(tensors)) and not norms_of({})
    for name, norm in found.items():
        assert norm.dtype is torch.float32
        torch.testing.assert_close(norm, tensors[name].double().norm().float())


def test_the_clock_is_read_when_the_device_is_done(monkeypatch):
    clock, seconds = TrainClock(), [0.0]
    clock.now = lambda: seconds[0]
    clock.on_train_batch_start()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: seconds.append(seconds.pop() + 5.0))
    assert clock.reading() == [5.0, 0]


def test_a_checkpoint_may_be_saved_while_ranks_share_their_numbers(tmp_path, monkeypatch):
    """As a job scheduler's signal has Lightning do, wherever the run is."""
    fit, calls = trainer(tmp_path, max_steps=6), itertools.count(1)

    def waiting(*args):
        if next(calls) == 3:
            fit.save_checkpoint(tmp_path / "meanwhile.ckpt")
        return all_gather_floats(*args)

    monkeypatch.setattr("plgolf.training.module.all_gather_floats", waiting)
    fit.fit(golden_module(), golden_data())
    assert fit.global_step == 6 and load(tmp_path / "meanwhile.ckpt")["global_step"] == 3


def test_a_resumed_run_has_the_pace_of_its_own_steps(tmp_path):
    """Not of the difference between what the clock counted on and what it then read."""

    def fit(max_steps, seconds_per_step, ckpt_path=None):
        clock, readings = TrainClock(agree_seconds=3600.0), itertools.count()
        clock.now = lambda: seconds_per_step(next(readings))
        save = RunCheckpoint(every_seconds=None, dir=str(tmp_path))
        run = trainer(tmp_path, save, clock, Halts(max_steps), max_steps=40, enable_checkpointing=True)
        run.fit(golden_module(), golden_data(), ckpt_path=ckpt_path)
        return clock

    # Ten slow steps, then quick ones that count as slow until somebody reads.
    fit(20, lambda reading: min(reading, 11) + 0.01 * max(reading - 11, 0))
    [saved] = tmp_path.glob("*.ckpt")
    assert fit(24, lambda reading: 0.01 * reading, str(saved)).step_seconds[0] == pytest.approx(
        0.01, abs=0.02
    )


class Halts(Callback):
    """Ends a run after a step, between two readings."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = trainer.should_stop or trainer.global_step == self.step


def test_what_a_fit_left_unread_is_not_the_next_ones(tmp_path):
    class Halt(Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 13:
                raise RuntimeError("halt")

    module = golden_module()
    with pytest.raises(RuntimeError, match="halt"):
        trainer(tmp_path, TrainClock(agree_seconds=3600.0), Halt(), max_steps=40).fit(module, golden_data())
    other = golden_module()
    other.gpt.load_state_dict(module.gpt.state_dict())
    again, fresh = Record(), Record()
    for record, fitted in ((again, module), (fresh, other)):
        data = golden_data(micro_batch_sequences=2)
        trainer(tmp_path, TrainClock(agree_seconds=3600.0), record, max_steps=1).fit(fitted, data)
    assert again.losses == fresh.losses
