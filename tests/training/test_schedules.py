"""Schedules of several numbers, and a reserve of the clock, in real runs."""

import itertools

import pytest
import yaml
from golden_run import golden_data, golden_module, trainer
from runs import assert_same_end, load

from plgolf.cli import main
from plgolf.optim import Warmdown
from plgolf.training import TrainClock


@pytest.mark.slow
def test_a_run_with_weight_decay_and_schedules_resumes_exactly(golden_recipe, tmp_path):
    recipe = yaml.safe_load(golden_recipe.read_text())
    recipe["model"]["optimizer"] = {
        "class_path": "plgolf.optim.MuonAdam",
        "init_args": {
            "matrix": {"weight_decay": 0.5, "polynomial": "polar_express", "equalize": "rows"},
            "embedding": {"lr": 0.03, "weight_decay": 0.25},
        },
    }
    warmdown = {"class_path": "plgolf.optim.Warmdown", "init_args": {"fraction": 1.0, "floor": 0.1}}
    recipe["model"] |= {
        "schedule": warmdown,
        "other_schedules": {"weight_decay": warmdown, "momentum": warmdown},
    }
    golden_recipe.write_text(yaml.safe_dump(recipe))
    words = ["--trainer.max_steps=4", "--checkpoint.every_steps=1", "--checkpoint.keep=9"]
    folders = [tmp_path / name for name in ("whole", "resumed")]
    command = ["fit", "-c", str(golden_recipe), *words]
    assert main([*command, f"--trainer.default_root_dir={folders[0]}"]) == 0
    path = folders[0] / "step-000002.ckpt"
    assert main([*command, f"--trainer.default_root_dir={folders[1]}", f"--ckpt_path={path}"]) == 0
    assert_same_end(*folders, step=4)
    # A checkpoint holds the numbers of the step after it.
    groups = {group["role"]: group for group in load(path)["optimizer_states"][0]["param_groups"]}
    assert groups["matrix"]["weight_decay"] == 0.25 and groups["matrix"]["momentum_factor"] == 0.5
    assert groups["embedding"]["weight_decay"] == 0.125 and groups["embedding"]["lr"] == 0.015
    assert groups["scalar"]["weight_decay"] == 0.0


def test_training_ends_before_its_reserve_and_the_warm_down_with_it(tmp_path):
    clock, factors = TrainClock(10.0, reserve_seconds=4.0), []
    ticks = itertools.count()
    clock.now = lambda: float(next(ticks))  # A second for each reading.
    module = golden_module(newton_schulz_dtype="float32")
    schedule = module.schedule = Warmdown(fraction=1.0)
    factor = schedule.factor
    schedule.factor = lambda progress: factors.append(factor(progress)) or factors[-1]
    run = trainer(tmp_path, clock, max_epochs=-1)
    run.fit(module, golden_data())
    assert 6.0 <= clock.elapsed_seconds < 8.0
    assert factors[0] == 1.0 and factors[-1] == 0.0 and min(f for f in factors if f) <= 1 / 3


def test_a_reserve_is_a_setting_of_the_clock(golden_recipe, capfd):
    words = ["--clock.max_seconds=2", "--clock.reserve_seconds=3"]
    assert main(["fit", "-c", str(golden_recipe), *words]) == 2
    assert "clock.reserve_seconds must be at least 0 and below max_seconds, got 3" in capfd.readouterr().err
