"""Callbacks that watch a metric, and callbacks that fail when the training is over."""

import json
from pathlib import Path

import pytest
from golden_run import golden_data, golden_module, trainer
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging
from own_callbacks import FailAt
from runs import load

from plgolf.cli import main
from plgolf.errors import UserError
from plgolf.training import ArtifactExport
from plgolf.training.command.quiet import quiet_libraries

RUN = Path("run")
STEPS = ("--trainer.max_steps=4", "--data.val_every_steps=2", "--trainer.log_every_n_steps=50")


@pytest.fixture
def fit(golden_recipe, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)

    def fitted(*words: str, **callbacks: dict) -> tuple[int, str]:
        named = [
            {"class_path": name if "." in name else f"lightning.pytorch.callbacks.{name}", "init_args": args}
            for name, args in callbacks.items()
        ]
        words = ("fit", "-c", golden_recipe.name, *STEPS, f"--trainer.callbacks={json.dumps(named)}", *words)
        code = main(list(words))
        said = capfd.readouterr()
        return code, said.out + said.err

    return fitted


@pytest.mark.parametrize(
    ("callback", "args"),
    [
        ("EarlyStopping", {"monitor": "val_loss"}),
        ("ModelCheckpoint", {"monitor": "val_loss"}),
        ("EarlyStopping", {"monitor": "loss"}),
        ("EarlyStopping", {"monitor": "val/bpb_raw"}),  # The golden data has no byte side-cars.
    ],
)
def test_a_monitor_that_does_not_exist_is_refused_before_the_first_step(callback, args, fit):
    code, said = fit(**{callback: args})
    assert code == 2
    assert len(said.splitlines()) == 1
    assert said.startswith(f"plgolf: error: trainer.callbacks: {callback}.monitor must be one of ")
    for known in ("val/bpb", "val/loss", "train/loss"):
        assert known in said
    assert said.rstrip().endswith(f"got {args['monitor']}") or "did you mean" in said
    assert not RUN.exists()


def test_the_nearest_name_is_suggested(fit):
    assert "(did you mean val/loss?)" in fit(EarlyStopping={"monitor": "val_loss"})[1]
    assert "(did you mean train/loss?)" in fit(EarlyStopping={"monitor": "train_loss"})[1]


def test_a_monitor_is_refused_from_python_too(tmp_path):
    run = trainer(tmp_path, EarlyStopping("val_loss"), max_steps=2)
    with pytest.raises(UserError, match="did you mean val/loss"):
        run.fit(golden_module(newton_schulz_dtype="float32"), golden_data())


@pytest.mark.parametrize("monitor", ["train/loss", "train/gradient_norm", "train/lr_factor", "val/loss"])
def test_training_metrics_can_be_monitored_even_where_no_row_is_logged(monitor, fit):
    code, said = fit(
        EarlyStopping={"monitor": monitor, "min_delta": 100.0, "patience": 1, "mode": "min"},
    )
    assert code == 0, said
    assert json.loads((RUN / "result.json").read_text())["steps"] == 4


def test_early_stopping_by_the_training_loss_sees_the_loss_of_the_step(fit):
    code, said = fit(EarlyStopping={"monitor": "train/loss", "min_delta": 100.0, "patience": 5})
    assert code == 0, said
    state = load(RUN / "step-000004.ckpt")["callbacks"]
    [stopping] = [value for name, value in state.items() if name.startswith("EarlyStopping")]
    assert 5.5 < float(stopping["best_score"]) < 6.3  # ln 512 = 6.24 at the start.


@pytest.mark.slow
def test_the_learning_rate_of_a_monitor_can_be_monitored(fit):
    watching = {"EarlyStopping": {"monitor": "lr/matrix"}, "LearningRateMonitor": {}}
    assert fit("--trainer.log_every_n_steps=1", **watching)[0] == 0


@pytest.mark.slow
def test_a_metric_of_ones_own_callback_can_be_monitored(fit):
    own = "own_callbacks.LogsOwn"
    code, said = fit(**{own: {}, "EarlyStopping": {"monitor": "mine/metric", "mode": "max"}})
    assert code == 0, said


@pytest.mark.parametrize("hook", ["on_train_end", "on_validation_end", "on_train_epoch_end", "on_fit_end"])
@pytest.mark.parametrize("place", ["first", "last"])
@pytest.mark.slow
def test_a_callback_that_fails_at_the_end_does_not_cost_the_export(hook, place, tmp_path):
    callbacks = [FailAt(hook), ArtifactExport(check_code=False)]
    run = trainer(tmp_path, *(callbacks if place == "first" else callbacks[::-1]), max_steps=4)
    with pytest.raises(RuntimeError, match=f"failed in {hook}"):
        run.fit(golden_module(newton_schulz_dtype="float32"), golden_data())
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["steps"] == 4
    assert result["roundtrip_val_bpb"] == pytest.approx(result["val_bpb"], abs=0.1)


def test_the_failure_is_reported_after_the_export(fit, capfd):
    with pytest.raises(RuntimeError, match="failed in on_train_end"):
        fit(**{"own_callbacks.FailAt": {"hook": "on_train_end"}})
    assert (RUN / "result.json").is_file()
    said = capfd.readouterr().out
    assert "a callback failed after the last step: exporting first, then its error follows" in said


def test_a_failure_within_the_run_exports_nothing(tmp_path):
    class FailSoon(Callback):
        def on_train_batch_end(self, trainer, *_):
            raise RuntimeError("soon")

    run = trainer(tmp_path, FailSoon(), ArtifactExport(check_code=False), max_steps=4)
    with pytest.raises(RuntimeError, match="soon"):
        run.fit(golden_module(newton_schulz_dtype="float32"), golden_data())
    assert not (tmp_path / "result.json").exists()


@pytest.mark.slow
def test_the_export_after_a_failure_is_of_the_averaged_weights(tmp_path):
    average = {"decay": 0.9}
    quiet_libraries()
    whole, failed = tmp_path / "whole", tmp_path / "failed"
    trainer(whole, EMAWeightAveraging(**average), ArtifactExport(check_code=False), max_steps=4).fit(
        golden_module(newton_schulz_dtype="float32"), golden_data()
    )
    run = trainer(
        failed,
        FailAt("on_train_end"),
        EMAWeightAveraging(**average),
        ArtifactExport(check_code=False),
        max_steps=4,
    )
    with pytest.raises(RuntimeError):
        run.fit(golden_module(newton_schulz_dtype="float32"), golden_data())
    assert (failed / "model.int8.ptz").read_bytes() == (whole / "model.int8.ptz").read_bytes()
