"""Schedules of learning rate, weight decay and momentum, also beside the records' own numbers."""

import json

import pytest
import torch
from golden_data import GOLDEN
from golden_records import APRIL, MARCH, RECORDS, content

from plgolf.errors import UserError
from plgolf.optim import AdamConfig, Constant, MuonAdam, MuonConfig, Schedule, Warmdown
from plgolf.optim.group_schedules import GroupSchedules
from plgolf.progress import RunProgress
from plgolf.training import TrainClock


@pytest.mark.parametrize("folder", [GOLDEN / "tied", RECORDS / MARCH])
def test_warm_downs_in_steps_are_those_of_the_programs(folder):
    rows = json.loads((folder / "lr_schedule.json").read_text())
    assert len(rows) > 100
    for row in rows:
        cap = row["max_wallclock_ms"]
        progress = RunProgress(
            step=row["step"],
            elapsed_seconds=row["elapsed_ms"] / 1000,
            max_steps=row["iterations"],
            max_seconds=None if cap is None else cap / 1000,
        )
        factor = Warmdown(max(row["warmdown_iters"], 0)).factor(progress)
        assert factor == pytest.approx(row["lr_scale"], abs=1e-9), row


def test_warm_downs_in_shares_of_the_clock_with_reserve_and_floor_are_the_records():
    rows = content("schedule.json", APRIL)
    assert len(rows) > 100
    bases = {"matrix": (0.026, 0.095), "embed": (0.03, 0.085), "scalar": (0.02, 0.02)}
    for row in rows:
        seconds, reserve = row["max_wallclock_seconds"] or None, row["gptq_reserve_seconds"]
        clock = TrainClock(seconds, reserve_seconds=reserve if seconds else 0.0)
        clock.elapsed_seconds = row["elapsed_ms"] / 1000
        progress = clock.progress(row["step"], row["iterations"])
        share = row["warmdown_frac"]
        schedule = Warmdown(fraction=share, floor=row["min_lr"]) if share else Warmdown(0)
        factor = schedule.factor(progress)
        assert factor == pytest.approx(row["lr_factor"], abs=1e-9), row
        assert progress.fraction == pytest.approx(min(row["frac"], 1.0), abs=1e-9)
        for name, (lr, decay) in bases.items():
            assert lr * factor == pytest.approx(row[f"lr_{name}"], abs=1e-9)
            assert 1 - lr * factor * decay == pytest.approx(row[f"decay_{name}"], abs=1e-9)


@pytest.mark.parametrize("floor", [-0.1, 1.5, float("nan")])
def test_a_floor_outside_0_to_1_is_refused(floor):
    with pytest.raises(UserError, match="floor must be at least 0 and at most 1"):
        Warmdown(floor=floor)


@pytest.mark.parametrize(("seconds", "reserve"), [(None, 1.0), (600.0, 600.0), (600.0, -1.0)])
def test_a_reserve_that_leaves_no_time_is_refused(seconds, reserve):
    with pytest.raises(UserError, match="reserve_seconds must be at least 0 and below max_seconds"):
        TrainClock(seconds, reserve_seconds=reserve)


def optimizer_of(kind: str) -> torch.optim.Optimizer:
    """Two groups, one of them with all numbers."""
    p, q = torch.nn.Parameter(torch.ones(4, 4)), torch.nn.Parameter(torch.ones(4))
    if kind == "SGD":
        return torch.optim.SGD(
            [{"params": [p], "momentum": 0.8, "weight_decay": 0.5}, {"params": [q]}], lr=0.1
        )
    return MuonAdam(
        [{"params": [p], "role": "matrix"}, {"params": [q], "role": "scalar"}],
        matrix=MuonConfig(
            lr=0.1, weight_decay=0.5, momentum=0.8, momentum_start=0.4, momentum_warmup_steps=2
        ),
        scalar=AdamConfig(lr=0.1),
    )


def schedules_of(optimizer: torch.optim.Optimizer) -> GroupSchedules:
    def progress(step):
        return RunProgress(step=step, elapsed_seconds=0.0, max_steps=8)

    others = {"weight_decay": Warmdown(fraction=0.5), "momentum": Warmdown(fraction=0.25, floor=0.5)}
    return GroupSchedules(optimizer, progress, Warmdown(fraction=1.0), others)


@pytest.mark.parametrize("kind", ["SGD", "MuonAdam"])
def test_every_number_of_a_group_follows_its_own_schedule(kind):
    optimizer = optimizer_of(kind)
    schedules, seen = schedules_of(optimizer), []
    for _ in range(8):
        for group in optimizer.param_groups:
            group["params"][0].grad = torch.ones_like(group["params"][0])
        seen.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["weight_decay"]))
        optimizer.step()
        seen[-1] += (optimizer.param_groups[0]["momentum"],)
        schedules.step()
    rates, decays, momenta = zip(*seen, strict=True)
    assert rates == pytest.approx([0.1 * (8 - step) / 8 for step in range(8)])
    assert decays == pytest.approx([0.5, 0.5, 0.5, 0.5, 0.5, 0.375, 0.25, 0.125])
    warm = [0.4, 0.6] if kind == "MuonAdam" else [0.8, 0.8]
    assert momenta == pytest.approx([*warm, 0.8, 0.8, 0.8, 0.8, 0.8, 0.4])
    assert optimizer.param_groups[1]["weight_decay"] == 0


@pytest.mark.parametrize("kind", ["SGD", "MuonAdam"])
def test_a_loaded_step_sets_the_numbers_of_its_schedules(kind):
    optimizer = optimizer_of(kind)
    schedules, before = schedules_of(optimizer), optimizer.state_dict()
    before["param_groups"][0].pop("momentum_factor", None)  # Written before it existed.
    optimizer.load_state_dict(before)
    schedules.load_state_dict({"last_epoch": 7, "lr_lambdas": [None, None]})
    group = optimizer.param_groups[0]
    assert group["weight_decay"] == 0.125
    assert group["momentum_factor" if kind == "MuonAdam" else "momentum"] == (
        0.5 if kind == "MuonAdam" else 0.4
    )
    assert schedules.state_dict() == {"last_epoch": 7}


@pytest.mark.parametrize("name", ["lr", "weight_decay", "beta"])
def test_a_schedule_that_would_change_nothing_is_refused(name):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1)
    others: dict[str, Schedule] = {name: Constant()}
    with pytest.raises(UserError, match=f"other_schedules must name numbers .*, got {name}"):
        GroupSchedules(
            optimizer, lambda step: RunProgress(step=step, elapsed_seconds=0.0), Constant(), others
        )
