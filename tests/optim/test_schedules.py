"""Schedules of learning rate, weight decay and momentum, also beside the records' own numbers."""

import json

import pytest
import torch
from golden_data import GOLDEN
from golden_records import APRIL, MARCH, RECORDS, content

from plgolf.errors import UserError
from plgolf.optim import AdamConfig, Constant, MuonAdam, MuonConfig, Schedule, Warmdown
from plgolf.optim.curves import Cooldown, Points
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


def test_the_decay_of_one_role_tapers_to_half_at_the_end_of_the_clock():
    """From 70 % of the clock on, and only that of the matrices, as in the record of 2026-04-18."""
    p, q = torch.nn.Parameter(torch.ones(4, 4)), torch.nn.Parameter(torch.ones(4))
    optimizer = MuonAdam(
        [{"params": [p], "role": "matrix"}, {"params": [q], "role": "scalar"}],
        matrix=MuonConfig(weight_decay=0.1),
        scalar=AdamConfig(lr=0.1, weight_decay=0.02),
    )

    def progress(step):
        return RunProgress(step=step, elapsed_seconds=6.0 * step, max_seconds=60.0)

    others = {"matrix/weight_decay": Points([(0.7, 1.0), (1.0, 0.5)]), "weight_decay": Points([(0.9, 1.0)])}
    schedules, seen = GroupSchedules(optimizer, progress, Constant(), others), []
    for _ in range(11):
        seen.append([group["weight_decay"] for group in optimizer.param_groups])
        optimizer.step()
        schedules.step()
    matrix, scalar = zip(*seen, strict=True)
    assert matrix == pytest.approx([0.1] * 8 + [0.1 * 5 / 6, 0.1 * 4 / 6, 0.05])
    assert scalar == pytest.approx([0.02] * 11)


def test_the_weights_of_a_mixture_are_scheduled_only_where_there_is_one():
    def progress(step):
        return RunProgress(step=step, elapsed_seconds=0.0, max_steps=4)

    fall = {"mixture": Points([(0.0, 1.0), (1.0, 0.0)])}
    for mixture in ((), ((0.9, 1.0, 1.0),)):
        optimizer = MuonAdam(
            [{"params": [torch.nn.Parameter(torch.ones(2, 2))], "role": "matrix"}],
            matrix=MuonConfig(mixture=mixture),
        )
        if not mixture:
            with pytest.raises(UserError, match="got mixture"):
                GroupSchedules(optimizer, progress, Constant(), fall)
            continue
        schedules = GroupSchedules(optimizer, progress, Constant(), fall)
        schedules.load_state_dict({"last_epoch": 3})
        assert optimizer.param_groups[0]["mixture"] == 0.25


def test_curves_begin_at_1_and_fall_to_their_end():
    def at(share):
        return RunProgress(step=round(1000 * share), elapsed_seconds=0.0, max_steps=1000)

    for shape in ("power", "cosine", "sqrt"):
        curve = Cooldown(0.5, shape)
        values = [curve.factor(at(k / 20)) for k in range(21)]
        assert values[:11] == [1.0] * 11 and values[-1] == 0.0
        assert values[10:] == sorted(values[10:], reverse=True)
    assert Cooldown(0.5, "power", power=2.0).factor(at(0.75)) == pytest.approx(0.25)
    assert Cooldown(0.5, beyond=0.5, floor=0.1).factor(at(1.0)) == pytest.approx(0.5)
    assert Cooldown(1.0, floor=0.1).factor(at(1.0)) == 0.1
    assert Points([(0.5, 0.3)]).factor(at(0.2)) == Points([(0.5, 0.3)]).factor(at(0.9)) == 0.3
    assert Points([(0.0, 1.0), (1.0, 0.0)]).factor(RunProgress(step=5, elapsed_seconds=9.0)) == 1.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Points([]), "points must have at least one point, got none"),
        (lambda: Points([(0.5, 1), (0.5, 0)]), r"points\.1\.0 must be from 0 to 1 and after .*, got 0.5"),
        (lambda: Points([(0.5, -1)]), r"points\.0\.1 must be finite and at least 0, got -1"),
        (lambda: Cooldown(0), "fraction must be above 0 and at most 1, got 0"),
        (lambda: Cooldown(shape="line"), "shape must be power, cosine or sqrt, got 'line'"),
        (lambda: Cooldown(power=0), "power must be finite and positive, got 0"),
        (lambda: Cooldown(beyond=2), "beyond must be at least 0 and at most 1, got 2"),
    ],
)
def test_curves_that_do_not_exist_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize("name", ["lr", "matrix/lr", "weight_decay", "head/weight_decay", "beta"])
def test_a_schedule_that_would_change_nothing_is_refused(name):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1)
    others: dict[str, Schedule] = {name: Constant()}
    with pytest.raises(UserError, match=f"other_schedules must name numbers .*, got {name}"):
        GroupSchedules(
            optimizer, lambda step: RunProgress(step=step, elapsed_seconds=0.0), Constant(), others
        )
