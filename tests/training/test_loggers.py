"""Every logger of docs/loggers.md runs with its YAML, and its own reader finds what the page says."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from golden_run import Record, golden_data, golden_module, trainer
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from loggers_page import (
    csv_series,
    from_page,
    mlflow,
    of_tensorboard,
    of_wandb,
    tensorboard,
    wandb_config,
    wandb_history,
)
from PIL import Image
from runs import assert_same_end, fit

from plgolf.cli import main
from plgolf.generation.language_model import load_artifact
from plgolf.training import ArtifactExport, CompileWarmup, SampleLog, TrainClock
from plgolf.training.finish.provenance import git_commit

LOGGERS = ("CSV", "TensorBoard", "Weights & Biases", "MLflow")
RUN = "checkpoints/quickstart"


def plgolf(*words: str, cwd: Path, **env: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "plgolf", *words],
        cwd=cwd,
        timeout=240,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **env},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(golden_recipe_file, tmp_path_factory):
    """Where a run has logged to all of them at once."""
    folder = tmp_path_factory.mktemp("logged")
    overlay = folder / "loggers.yaml"
    overlay.write_text(yaml.safe_dump(from_page(*LOGGERS, "Sample text", "LearningRateMonitor")))
    words = ("--trainer.max_steps=6", "--trainer.log_every_n_steps=2", "--data.val_every_steps=3")
    root = f"--trainer.default_root_dir={RUN}"
    plgolf("fit", "-c", str(golden_recipe_file), "-c", overlay.name, root, *words, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def run(folder):
    return folder / RUN


@pytest.fixture(scope="module")
def result(run):
    return json.loads((run / "result.json").read_text())


@pytest.fixture(scope="module")
def store(folder):
    return mlflow("sqlite:///checkpoints/mlflow.db", cwd=folder)


@pytest.mark.slow
def test_csv_has_every_curve_at_the_steps_it_is_of(run, result):
    series = csv_series(run)
    assert [step for step, _ in series["train/loss"]] == [2, 4, 6]
    assert [step for step, _ in series["val/bpb"]] == [3, 6]
    assert series["val/bpb"][-1][1] == result["val_bpb"]
    assert series["roundtrip/bpb"] == [(6, result["roundtrip_val_bpb"])]
    assert series["export/bytes"] == [(6, result["total_bytes"])]
    for part in ("artifact_bytes", "code_bytes", "budget_bytes"):
        assert series[f"export/{part}"] == [(6, result[part])]
    # Base 0.02, one step of four left: what the sixth step applied.
    assert series["lr/matrix"][-1] == (5, pytest.approx(0.02 / 4))


@pytest.mark.slow
@pytest.mark.parametrize("logger", ["tensorboard", "wandb", "mlflow"])
def test_the_others_have_the_same_curves(logger, run, store):
    expected = csv_series(run)
    read = {"tensorboard": of_tensorboard, "wandb": of_wandb, "mlflow": lambda _: store["metrics"]}
    found = {name: [tuple(point) for point in points] for name, points in read[logger](run).items()}
    assert found.keys() == expected.keys()
    # TensorBoard keeps float32, and a finished run's scores once more for its table of runs.
    precision = 1e-6 if logger == "tensorboard" else 1e-12
    for name, points in expected.items():
        mine, theirs = (
            sorted(set(p)) if logger == "tensorboard" else sorted(p) for p in (points, found[name])
        )
        assert [step for step, _ in theirs] == [step for step, _ in mine], name
        assert [v for _, v in theirs] == pytest.approx([v for _, v in mine], rel=precision), name


@pytest.mark.slow
def test_hyperparameters_and_commit_reach_every_logger(run, store, result):
    written = [yaml.safe_load(path.read_text()) for path in run.glob("*/version_*/hparams.yaml")]
    assert len(written) == 2
    for settings in (*written, wandb_config(run)):
        assert settings["model"]["gpt"]["dim"] == 64
        assert settings["trainer"]["logger"][2]["init_args"]["offline"] is True
        assert (settings["seed"], settings["num_params"], settings["world_size"]) == (7, 148_624, 1)
        assert settings["git_commit"] == result["git_commit"] == git_commit()
        assert settings["versions"] == result["versions"]
        assert settings["hardware"] == result["hardware"]
    params = store["params"]
    assert params["model/gpt/dim"] == "64" and params["model/gpt/attention/num_heads"] == "4"
    assert params["trainer/callbacks/0/class_path"].endswith("LearningRateMonitor")
    assert params["num_params"] == "148624" and params["git_commit"] == str(result["git_commit"])
    assert params["versions/torch"] == result["versions"]["torch"]


@pytest.mark.slow
def test_a_run_is_a_row_of_tensorboards_table_with_its_scores(run, result):
    from tensorboard.plugins.hparams.metadata import parse_experiment_plugin_data as experiment_of
    from tensorboard.plugins.hparams.metadata import parse_session_start_info_plugin_data as start_of

    metadata = tensorboard(run).summary_metadata
    experiment = experiment_of(metadata["_hparams_/experiment"].plugin_data.content)
    session = start_of(metadata["_hparams_/session_start_info"].plugin_data.content)
    assert session.hparams["model/gpt/dim"].number_value == 64
    assert session.hparams["git_commit"].string_value == str(result["git_commit"])
    metrics = {info.name.tag for info in experiment.metric_infos}
    assert {"val/bpb", "roundtrip/bpb", "export/bytes"} <= metrics and "hp_metric" not in metrics


@pytest.mark.slow
def test_the_ledger_is_text_where_text_is_taken(run, store, result):
    events = tensorboard(run)
    text = events.Tensors("ledger/parts/text_summary")[0].tensor_proto.string_val[0].decode()
    assert f"| artifact_bytes | {result['artifact_bytes']:,} |" in text
    (row,) = (row for row in wandb_history(run) if "ledger/parts" in row)
    assert row["trainer/global_step"] == 6
    (path,) = run.glob(f"wandb/offline-run-*/files/{row['ledger/parts']['path']}")
    table = json.loads(path.read_text())
    assert table["columns"] == ["part", "bytes", "of_budget"]
    assert ["total_bytes", result["total_bytes"], result["total_bytes"] / 16e6] in table["data"]
    assert Path(store["files"]["ledger/parts/step-000006.md"]).read_text() == text


@pytest.mark.slow
def test_what_the_model_writes_is_logged_after_validations_and_of_the_artifact(run, store):
    model = load_artifact(run / "model.int8.ptz", seq_len=64, tokenizer=golden_data().tokenizer_path)
    prompts = ["def main(", "import "]
    expected = [[p, model.generate(p, max_tokens=32, temperature=0.8)] for p in prompts]
    history = wandb_history(run)
    steps = [row["trainer/global_step"] for row in history if "samples/training" in row]
    assert steps == [3, 6]
    (row,) = (row for row in history if "samples/artifact" in row)
    (path,) = run.glob(f"wandb/offline-run-*/files/{row['samples/artifact']['path']}")
    assert json.loads(path.read_text())["data"] == expected
    events = tensorboard(run)
    assert [e.step for e in events.Tensors("samples/training/text_summary")] == [3, 6]
    text = events.Tensors("samples/artifact/text_summary")[0].tensor_proto.string_val[0].decode()
    assert text.startswith("    def main(")
    assert {f"samples/training/step-{step:06}.md" for step in (3, 6)} <= store["files"].keys()
    assert Path(store["files"]["samples/artifact/step-000006.md"]).read_text() == text


@pytest.mark.slow
def test_the_picture_of_the_ledger_is_an_image(run, store):
    drawn = tensorboard(run).Images("ledger/treemap")
    assert [image.step for image in drawn] == [6]
    picture = pixels(drawn[0].encoded_image_string)
    assert min(picture.shape[:2]) > 200 and len(np.unique(picture.reshape(-1, 3), axis=0)) > 8
    (row,) = (row for row in wandb_history(run) if "ledger/treemap" in row)
    (path,) = run.glob(f"wandb/offline-run-*/files/{row['ledger/treemap']['filenames'][0]}")
    assert np.array_equal(pixels(path.read_bytes()), picture)
    path = Path(store["files"]["ledger/treemap/step-000006.png"])
    assert np.array_equal(pixels(path.read_bytes()), picture)


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


@pytest.mark.slow
def test_mlflows_retired_store_of_files_works_where_mlflow_is_told_so(golden_recipe, tmp_path):
    settings = {"class_path": "lightning.pytorch.loggers.MLFlowLogger"}
    settings["init_args"] = {"experiment_name": "golf", "tracking_uri": "file:./mlruns"}
    (tmp_path / "logger.yaml").write_text(yaml.safe_dump({"trainer": {"logger": settings}}))
    words = ("-c", golden_recipe.name, "-c", "logger.yaml", "--trainer.max_steps=1")
    told = {"MLFLOW_ALLOW_FILE_STORE": "true"}
    plgolf("fit", *words, cwd=tmp_path, **told)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    found = mlflow("file:./mlruns", cwd=tmp_path, **told)
    assert found["metrics"]["roundtrip/bpb"] == [[1, result["roundtrip_val_bpb"]]]
    assert found["status"] == "FINISHED"
    # Parameters are never changed there; the curves go on.
    again = (f"--trainer.logger.run_id={found['run_id']}", "--resume=auto", "--trainer.max_steps=2")
    said = plgolf("fit", *words, *again, cwd=tmp_path, **told)
    assert said.count("MLFlowLogger: settings could not be logged: MlflowException") == 1
    found = mlflow("file:./mlruns", cwd=tmp_path, **told)
    assert [step for step, _ in found["metrics"]["train/loss"]] == [1, 2]
    assert found["params"]["trainer/max_steps"] == "1"


class Plain(Logger):
    """A logger of somebody's own: what every logger must have, and no more."""

    def __init__(self):
        self.metrics, self.settings = [], {}

    name = version = "plain"

    def log_metrics(self, metrics, step=None):
        self.metrics.append((step, dict(metrics)))

    def log_hyperparams(self, params, *args, **kwargs):
        self.settings.update(params)


class Full(TensorBoardLogger):
    """A disk that is full when anything but curves is written."""

    def log_metrics(self, metrics, step=None):
        if "export/bytes" in metrics:
            self.experiment.add_text = self.experiment.add_image = self._refuse
            raise RuntimeError("gone\naway")

    def _refuse(self, *args, **kwargs):
        raise OSError(28, "No space left on device")


def test_a_logger_of_ones_own_gets_numbers_and_is_otherwise_left_alone(tmp_path):
    logger = Plain()
    fit_to = trainer(
        tmp_path,
        ArtifactExport(check_code=False),
        SampleLog(),
        max_steps=2,
        logger=[CSVLogger(tmp_path), logger],
    )
    fit_to.fit(golden_module(), golden_data())
    step, last = logger.metrics[-1]
    assert step == 2 and last["export/bytes"] == fit_to.callbacks[0].result["total_bytes"]


def test_a_logger_that_fails_at_the_end_costs_a_line_and_no_artifact(tmp_path, capsys):
    samples, plain = SampleLog(max_tokens=2), Plain()
    run = trainer(
        tmp_path, ArtifactExport(check_code=False), samples, max_steps=2, logger=[Full(tmp_path), plain]
    )
    run.fit(golden_module(), golden_data())
    assert json.loads((tmp_path / "result.json").read_text())["steps"] == 2
    assert (tmp_path / "model.int8.ptz").is_file()
    assert "roundtrip/bpb" in plain.metrics[-1][1]  # The next one is not passed over.
    said = capsys.readouterr().out
    assert "Full: export could not be logged: RuntimeError: gone away\n" in said
    for name in ("ledger/parts", "ledger/treemap", "samples/artifact"):
        assert f"Full: {name} could not be logged: OSError: [Errno 28] No space left on device\n" in said


@pytest.mark.slow
def test_samples_change_nothing_of_a_run_on_two_ranks(golden_recipe_file, tmp_path):
    overlay = tmp_path / "logger.yaml"
    overlay.write_text(yaml.safe_dump(from_page("TensorBoard", "Sample text")))
    words = ("-c", str(overlay), "--trainer.max_steps=4", "--data.val_every_steps=2")
    for name, when in (("with", "validation"), ("without", "end")):
        save = f"--trainer.logger.save_dir={tmp_path / name}"
        fit(golden_recipe_file, 2, *words, save, f"--samples.when={when}", folder=tmp_path / name)
    assert_same_end(tmp_path / "with", tmp_path / "without", step=4)
    tags = [set(tensorboard(tmp_path / name).Tags()["tensors"]) for name in ("with", "without")]
    assert "samples/artifact/text_summary" in tags[0] & tags[1]
    assert tags[0] - tags[1] == {"samples/training/text_summary"}


def test_samples_take_no_training_time_and_no_random_numbers(tmp_path):
    clock, time = TrainClock(), [0.0]
    clock.now = lambda: time[0]

    class Slow(SampleLog):
        def on_validation_end(self, *args):
            before = torch.random.get_rng_state()
            super().on_validation_end(*args)
            assert torch.equal(torch.random.get_rng_state(), before)
            time[0] += 100.0

    class Second(Record):
        def on_before_zero_grad(self, *_):
            time[0] += 1.0

    samples = Slow(max_tokens=2, when="validation")
    run = trainer(
        tmp_path, samples, clock, Second(), max_steps=4, logger=TensorBoardLogger(tmp_path, "tensorboard")
    )
    run.fit(golden_module(), golden_data(val_every_steps=2))
    assert clock.elapsed_seconds == 4.0 and time[0] == 204.0
    assert [e.step for e in tensorboard(tmp_path).Tensors("samples/training/text_summary")] == [2, 4]


@pytest.mark.slow
def test_samples_compile_nothing_anew(tmp_path):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    module, samples = golden_module(), SampleLog(max_tokens=4, when="validation")
    module.compiled = True
    logger = TensorBoardLogger(tmp_path, "tensorboard")
    run = trainer(
        tmp_path, CompileWarmup(2), ArtifactExport(check_code=False), samples, max_steps=4, logger=logger
    )
    run.fit(module, golden_data(val_every_steps=2))
    assert "samples/artifact/text_summary" in tensorboard(tmp_path).Tags()["tensors"]
    counters = torch._dynamo.utils.counters
    assert counters["stats"]["unique_graphs"] == 2 and not counters["graph_break"]


def test_settings_of_samples_are_checked():
    with pytest.raises(ValueError, match="^max_tokens must be at least 1, got 0"):
        SampleLog(max_tokens=0)
    with pytest.raises(ValueError, match="^temperature must be at least 0, got -1"):
        SampleLog(temperature=-1)


def test_a_logger_that_is_not_installed_is_one_line(golden_recipe, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    logger = {"class_path": "lightning.pytorch.loggers.CometLogger"}
    (tmp_path / "logger.yaml").write_text(yaml.safe_dump({"trainer": {"logger": logger}}))
    assert main(["fit", "-c", golden_recipe.name, "-c", "logger.yaml"]) == 2
    said = capfd.readouterr().err
    assert "comet-ml" in said and "pip install" in said and said.count("\n") == 1
