"""Lightning's own callbacks and profilers through the command line, with the YAML of docs/loggers.md."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from golden_run import golden_data, golden_module, trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from loggers_page import csv_series, from_page
from runs import assert_same_end, load

from plgolf.artifact import read_artifact, save_artifact
from plgolf.cli import main
from plgolf.model.weights import gpt_with_weights
from plgolf.optim import Warmdown
from plgolf.progress import RunProgress

RUN = Path("run")
RESUME = ("--trainer.max_steps=6", "--data.val_every_steps=3")


@pytest.fixture
def plgolf(golden_recipe, tmp_path, monkeypatch):
    """Runs a command with the golden recipe and the page's settings; returns the exit code."""
    monkeypatch.chdir(tmp_path)

    def run(command, *words, page=(), **settings):
        overlay = from_page(*page)
        for group, values in settings.items():
            overlay.setdefault(group, {}).update(values)
        Path("page.yaml").write_text(yaml.safe_dump(overlay))
        return main([command, "-c", golden_recipe.name, "-c", "page.yaml", *words])

    return run


def result() -> dict:
    return json.loads((RUN / "result.json").read_text())


def test_learning_rate_monitor_logs_the_schedule(plgolf):
    assert plgolf("fit", "--trainer.max_steps=8", page=["LearningRateMonitor"]) == 0
    series, schedule = csv_series(RUN), Warmdown(steps=4)
    for name, base in (("lr/matrix", 0.02), ("lr/embedding", 0.03), ("lr/scalar", 0.02)):
        points = dict(series[name])
        assert sorted(points) == list(range(8)), name
        for step, rate in points.items():
            factor = schedule.factor(
                RunProgress(step=step, elapsed_seconds=0.0, max_steps=8, max_seconds=None)
            )
            assert rate == pytest.approx(base * factor, rel=1e-12), (name, step)
    assert series["train/lr_factor"][-1] == (8, points[7] / 0.02)


def test_early_stopping_ends_the_run_and_its_artifact_is_there(plgolf, caplog):
    page = from_page("EarlyStopping")["trainer"]["callbacks"][0]
    page["init_args"]["min_delta"] = 10.0  # No model gets better by so much.
    assert plgolf("fit", "--trainer.max_steps=50", page=["EarlyStopping"], trainer={"callbacks": [page]}) == 0
    assert [step for step, _ in csv_series(RUN)["val/bpb"]] == [2, 4]
    assert (result()["steps"], (RUN / "model.int8.ptz").is_file()) == (4, True)
    assert (RUN / "step-000004.ckpt").is_file()
    assert "did not improve in the last 1 records" in caplog.text


@pytest.mark.slow
def test_model_checkpoint_keeps_the_best_to_validate_and_to_go_on_from(plgolf, capfd):
    assert plgolf("fit", "--trainer.max_steps=6", page=["ModelCheckpoint"]) == 0
    scores = csv_series(RUN)["val/bpb"]
    step, best = min(scores, key=lambda point: point[1])
    (path,) = Path("checkpoints/best").iterdir()
    assert path.name == f"step{step}-bpb{best:.3f}.ckpt"
    capfd.readouterr()
    assert plgolf("validate", f"--ckpt_path={path}", page=["ModelCheckpoint"]) == 0
    assert f"val/bpb {best:.8f}" in capfd.readouterr().out
    assert plgolf("fit", "--trainer.max_steps=8", f"--ckpt_path={path}", page=["ModelCheckpoint"]) == 0
    assert result()["steps"] == 8


def test_a_moving_average_is_what_is_validated_exported_and_saved(plgolf):
    assert (
        plgolf(
            "fit", *RESUME, "--checkpoint.every_steps=1", "--checkpoint.keep=9", page=["EMAWeightAveraging"]
        )
        == 0
    )
    saved = [load(RUN / f"step-{step:06}.ckpt") for step in range(1, 7)]
    average = saved[0]["current_model_state"]
    for checkpoint in saved[1:]:
        now = checkpoint["current_model_state"]
        average = {name: 0.9 * average[name] + 0.1 * now[name] for name in average}
    end = saved[-1]["state_dict"]
    assert all(torch.allclose(end[name], average[name], rtol=1e-4, atol=1e-6) for name in average)
    assert not torch.allclose(
        end["gpt.embedding.weight"], saved[-1]["current_model_state"]["gpt.embedding.weight"]
    )
    exported = read_artifact(RUN / "model.int8.ptz")
    weights = {name.removeprefix("gpt."): tensor for name, tensor in end.items()}
    save_artifact(gpt_with_weights(exported.config, weights), "again.int8.ptz")
    again = read_artifact("again.int8.ptz").weights
    assert all(torch.equal(tensor, again[name]) for name, tensor in exported.weights.items())
    assert result()["roundtrip_val_bpb"] == pytest.approx(result()["val_bpb"], rel=1e-2)
    # A run that goes on has both, the weights and their average.
    words = (*RESUME, "--ckpt_path=run/step-000003.ckpt", "--trainer.default_root_dir=resumed")
    assert plgolf("fit", *words, page=["EMAWeightAveraging"]) == 0
    assert_same_end(RUN, Path("resumed"), step=6)


@pytest.mark.parametrize(
    ("profiler", "row"),
    [("simple", "run_training_batch"), ("advanced", "function calls"), ("pytorch", "Self CPU time total")],
)
@pytest.mark.filterwarnings("ignore:Warning. Profiler clears events")
def test_a_profilers_report_is_in_the_runs_folder(profiler, row, plgolf):
    assert plgolf("fit", page=["Profilers"], trainer={"profiler": profiler}) == 0
    assert row in (RUN / "fit-profile.txt").read_text()
    traces = list(RUN.glob("fit-profile-*training_step*.pt.trace.json"))
    assert bool(traces) == (profiler == "pytorch")
    assert result()["steps"] == 6


@pytest.mark.slow
def test_bars_and_a_summary_are_there_when_asked_for(plgolf, capfd):
    pytest.importorskip("tqdm")
    assert plgolf("fit", "--trainer.max_steps=2", page=["TQDMProgressBar"]) == 0
    said = capfd.readouterr()
    assert "Epoch 0" in said.err + said.out and "148 K" in said.out + said.err
    assert plgolf("fit", "--trainer.max_steps=2", "--trainer.enable_progress_bar=true") == 0
    assert "Epoch 0" in capfd.readouterr().out


def test_device_stats_are_logged(plgolf):
    pytest.importorskip("psutil")
    assert plgolf("fit", "--trainer.max_steps=2", page=["DeviceStatsMonitor"]) == 0
    names = [name for name in csv_series(RUN) if name.startswith("DeviceStatsMonitor.on_train_batch_end")]
    assert any("cpu_percent" in name for name in names)


@pytest.mark.slow
def test_timer_ends_a_run_by_its_wall_time(plgolf):
    timer = from_page("Timer")["trainer"]["callbacks"]
    assert plgolf("fit", "--trainer.max_steps=2", page=["Timer"]) == 0
    timer[0]["init_args"]["duration"] = "00:00:00:04"
    assert plgolf("fit", "--trainer.max_steps=100000", trainer={"callbacks": timer}) == 0
    assert 2 < result()["steps"] < 100_000 and (RUN / "model.int8.ptz").is_file()


def test_what_would_change_the_batch_is_refused(plgolf, tmp_path, capfd):
    callback = "lightning.pytorch.callbacks.GradientAccumulationScheduler"
    settings = {"callbacks": [{"class_path": callback, "init_args": {"scheduling": {0: 2}}}]}
    assert plgolf("fit", trainer=settings) == 2
    message = "cannot be used, accumulation follows from data.global_batch_tokens"
    assert message in capfd.readouterr().err
    assert not RUN.exists()
    fit = trainer(tmp_path, GradientAccumulationScheduler({0: 2}), max_steps=1)
    with pytest.raises(ValueError, match=message):
        fit.fit(golden_module(), golden_data())


def test_averages_over_epochs_are_refused(plgolf, capfd):
    callback = "lightning.pytorch.callbacks.StochasticWeightAveraging"
    settings = {"callbacks": [{"class_path": callback, "init_args": {"swa_lrs": 0.01, "device": None}}]}
    assert plgolf("fit", "--trainer.max_steps=2", trainer=settings) == 2
    said = capfd.readouterr().err
    assert (
        "StochasticWeightAveraging replaces the learning rate schedule, use EMAWeightAveraging" in said
        and said.count("\n") == 1
    )
