"""Settings that cannot work: refused in one line, with the reason, before anything is written."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from golden_run import golden_data, golden_module, trainer
from lightning.pytorch.callbacks import LearningRateFinder, device_stats_monitor
from processes import Rank, free_port, ranks
from runs import load

from plgolf.cli import main
from plgolf.errors import UserError


@pytest.fixture
def refused(golden_recipe, tmp_path, monkeypatch, capfd):
    """Runs a command that must fail with exit code 2, one line (returned) and no file written."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").write_text("a file\n")

    def said(*words: str, command: str = "fit") -> str:
        before = sorted(tmp_path.rglob("*"))
        code = main([command, "-c", golden_recipe.name, "--trainer.max_steps=2", *words])
        out, error = capfd.readouterr()
        assert (code, out) == (2, ""), out + error
        assert len(error.splitlines()) == 1, error
        assert sorted(tmp_path.rglob("*")) == before
        return error.removeprefix("plgolf: error: ").rstrip()

    return said


@pytest.mark.parametrize("command", ["fit", "validate"])
def test_ckpt_path_best_is_refused(command, refused):
    assert refused("--ckpt_path=best", command=command).startswith(
        "ckpt_path must be a file or last, got best"
    )


@pytest.mark.parametrize("command", ["fit", "validate"])
def test_ckpt_path_hpc_needs_such_a_checkpoint(command, refused):
    assert refused("--ckpt_path=hpc", command=command).startswith("run: holds no hpc_ckpt_<number>.ckpt")


@pytest.mark.parametrize("seed", ["-1", "4294967296"])
def test_a_seed_out_of_bounds_is_refused(seed, refused):
    assert refused(f"--seed_everything={seed}") == f"seed_everything must be from 0 to 4294967295, got {seed}"


def test_a_value_that_its_class_refuses_is_named_by_its_whole_path(refused):
    for key, value, rule in (
        ("model.gpt.attention.num_heads", "0", "must be at least 1, got 0"),
        ("model.gpt.parts.exclusive.layers", "last 9", "must be"),
        ("model.gpt.mlp.expansion", "0.3", "must give a whole hidden width"),
        ("model.optimizer.scalar.betas", "[0.9,1]", ".1 must be at least 0 and below 1, got 1.0"),
        ("model.optimizer.matrix.lr", "-1", "must be finite and at least 0, got -1.0"),
        ("model.schedule.steps", "-1", "must be at least 0, got -1"),
        ("clock.max_seconds", "-1", "must be positive, got -1.0"),
        ("data.seq_len", "0", "must be at least 1, got 0"),
        ("samples.temperature", "-1", "must be at least 0, got -1.0"),
    ):
        assert refused(f"--{key}={value}").replace(f"{key}.", f"{key} .").startswith(f"{key} {rule}"), key


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        (
            "model.other_schedules",
            {"momentum": {"class_path": "plgolf.optim.Warmdown", "init_args": {"steps": -1}}},
            "momentum.steps must be at least 0, got -1",
        ),
        (
            "export.format",
            {
                "class_path": "plgolf.container.Container",
                "init_args": {"quantize": {"all": {"rows": {"bits": 9}}}},
            },
            "quantize.all.rows.bits must be from 2 to 8, got 9",
        ),
    ],
)
def test_a_class_that_refuses_its_settings_is_named_by_its_place(key, value, error, refused):
    assert refused(f"--{key}={json.dumps(value)}") == f"{key}.{error}"


def test_the_evaluator_of_validate_is_named_by_its_path(refused):
    assert refused("--evaluator.stride=0", command="validate") == "evaluator.stride must be at least 1, got 0"


@pytest.mark.parametrize("name", ["ddp_spawn", "ddp_fork", "ddp_notebook"])
def test_strategies_that_pickle_the_module_are_refused(name, refused):
    said = refused(f"--trainer.strategy={name}")
    assert said.startswith("trainer.strategy must start each rank as a command of its own: auto or ddp, got ")
    assert said.endswith(name)
    given = {"class_path": "lightning.pytorch.strategies.DDPStrategy", "init_args": {"start_method": "spawn"}}
    assert "start each rank" in refused(f"--trainer.strategy={json.dumps(given)}")


@pytest.mark.parametrize("key", ["trainer.default_root_dir", "checkpoint.dir", "export.dir"])
@pytest.mark.parametrize("path", ["README.md", "README.md/run"])
def test_a_folder_that_is_a_file_is_refused(key, path, refused):
    assert refused(f"--{key}={path}") == f"{key} must be a folder, got {path}: README.md is a file"


def test_barebones_is_refused(refused):
    said = refused("--trainer.barebones=true")
    assert said.startswith("trainer.barebones must be false, ")
    assert "object at" not in said


def test_a_fit_without_validation_batches_is_refused(refused):
    said = refused("--trainer.limit_val_batches=0")
    assert said.startswith("trainer.limit_val_batches must leave something to score, got 0")


@pytest.mark.parametrize(
    ("callback", "instead"),
    [
        ("LearningRateFinder", "--model.optimizer"),
        ("BatchSizeFinder", "data.micro_batch_sequences"),
        ("ArtifactExport", "--export"),
        ("TrainClock", "--clock"),
        ("RunCheckpoint", "--checkpoint"),
    ],
)
def test_callbacks_that_cannot_work_are_refused(callback, instead, refused):
    said = refused(f"--trainer.callbacks={callback}")
    assert said.startswith("trainer.callbacks must ")
    assert callback in said
    assert instead in said


def test_callbacks_are_refused_from_python_too(tmp_path):
    run = trainer(tmp_path, LearningRateFinder(), max_steps=2)
    with pytest.raises(UserError, match="LearningRateFinder"):
        run.fit(golden_module(newton_schulz_dtype="float32"), golden_data())


def test_a_callback_whose_library_is_missing_names_it(golden_recipe, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(device_stats_monitor, "_PSUTIL_AVAILABLE", False)
    assert main(["fit", "-c", golden_recipe.name, "--trainer.callbacks=DeviceStatsMonitor"]) == 2
    out, error = capfd.readouterr()
    assert out == ""
    assert len(error.splitlines()) == 1
    assert "DeviceStatsMonitor" in error
    assert "pip install psutil" in error


def test_a_timer_works(golden_recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--trainer.callbacks=Timer", "--trainer.callbacks.duration=00:00:05:00", "--trainer.max_steps=2"]
    assert main(["fit", "-c", golden_recipe.name, *words]) == 0
    assert "interval: step" in Path("run/config.yaml").read_text()


def test_a_callback_whose_state_cannot_be_saved_is_named(golden_recipe, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    own = json.dumps({"class_path": "own_callbacks.OddState"})
    words = [f"--trainer.callbacks={own}", "--trainer.max_steps=2"]
    assert main(["fit", "-c", golden_recipe.name, *words]) == 2
    error = capfd.readouterr().err
    assert error.startswith("plgolf: error: run/step-000002.ckpt: the state of the callback OddState ")
    assert len(error.splitlines()) == 1


# The first hour


def test_without_data_the_next_command_is_named(refused):
    root = "data/datasets/fineweb10B_sp1024"
    assert refused(f"--data.root={root}") == (
        f"{root}: no such folder (data.root): plgolf data download sp1024 fetches it"
    )
    assert refused("--data.root=mine") == (
        "mine: no such folder (data.root): plgolf data prepare FILES --root mine builds one"
    )


def test_without_a_gpu_the_overlay_is_named(refused):
    said = refused("--trainer.accelerator=gpu")
    assert said == "No supported gpu backend found! Without a GPU add -c configs/hardware/cpu.yaml"


def test_a_fit_without_an_end_names_a_recipe(refused, capfd):
    assert main(["fit"]) == 2
    assert "plgolf fit -c configs/quickstart.yaml" in capfd.readouterr().err


def test_validate_without_a_file_shows_how_to_name_one(refused):
    assert refused(command="validate") == (
        "ckpt_path must name the checkpoint or artifact to validate, such as --ckpt_path=run/model.int8.ptz"
    )


# Ranks


def test_two_processes_for_one_device_are_refused_by_their_number(golden_recipe, tmp_path):
    words = [
        "fit",
        "-c",
        str(golden_recipe),
        "--trainer.devices=1",
        f"--trainer.default_root_dir={tmp_path}/r",
    ]
    started = ranks(main, 2, words, folder=tmp_path)
    assert all(rank.wait() for rank in started)
    assert started[0].said == (
        "plgolf: error: trainer.devices and trainer.num_nodes must be of as many processes as were "
        "launched (2), got 1: set --trainer.devices=2 --trainer.strategy=ddp\n"
    )
    assert started[1].said == ""


def test_a_run_that_waits_for_another_machine_names_what_it_waits_for(golden_recipe, tmp_path):
    words = ["fit", "-c", str(golden_recipe), "--trainer.num_nodes=2", "--trainer.strategy=ddp"]
    env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    run = Rank(main, words, folder=tmp_path, env=env)
    end = time.monotonic() + 60
    while "waiting" not in run.said and run.process.is_alive():
        assert time.monotonic() < end, run.said
        time.sleep(0.1)
    run.process.kill()
    assert f"waiting for 1 of 2 machines (trainer.num_nodes) at 127.0.0.1:{env['MASTER_PORT']}" in run.said


@pytest.mark.slow
def test_two_ranks_print_no_advice_for_developers(golden_recipe, tmp_path):
    words = ["fit", "-c", str(golden_recipe), "--trainer.devices=2", "--trainer.strategy=ddp"]
    words += ["--trainer.max_steps=2", f"--trainer.default_root_dir={tmp_path / 'run'}"]
    started = ranks(main, 2, words, folder=tmp_path)
    assert [rank.wait() for rank in started] == [0, 0]
    assert "sync_dist" not in started[0].said + started[1].said
    assert load(tmp_path / "run" / "step-000002.ckpt")["global_step"] == 2


@pytest.mark.slow
def test_compiling_without_a_compiler_costs_a_line(golden_recipe, tmp_path):
    words = ("fit", "-c", golden_recipe.name, "--model.compile=true", "--trainer.max_steps=1")
    environment = {**os.environ, "CXX": "/no/compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "plgolf", *words]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1 and "model.compile failed: InvalidCxxCompiler" in done.stderr
    assert "add --model.compile=false" in done.stderr
