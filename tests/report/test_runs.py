"""Folders of runs: whole ones, older ones, unfinished, resumed, broken and hostile ones."""

import json
import math

import numpy as np
import pytest
from report.folders import write_csv, write_run

from plgolf.errors import UserError
from plgolf.report.curves import read_curves
from plgolf.report.runs import read_run


def test_a_run_of_today_is_read_whole(tmp_path):
    run = read_run(write_run(tmp_path / "base", tokenizer_bytes=1000))
    assert (run.name, run.seed, run.notes) == ("base", 1337, ())
    assert run.result.tokenizer_bytes == 1000 and len(run.result.tensors) == 83
    assert sum(run.result.step_ms_histogram.counts) == run.result.steps == 9092
    assert len(run.analysis.documents) == 4 and run.analysis.positions[0].first == 0
    assert run.settings["model.optimizer.init_args.matrix.lr"] == "0.02"
    assert run.settings["trainer.callbacks"] == "null"
    loss = run.curves["train/loss"]
    assert len(loss) == 181 and loss.steps[0] == 50 and run.curves.last_step == 9050
    assert len(run.curves["no/such"]) == 0


def test_seconds_of_validation_lie_between_those_of_training(tmp_path):
    curves = read_run(write_run(tmp_path)).curves
    seconds = curves.seconds_of(curves["train/loss"])
    assert np.array_equal(seconds, curves["train/seconds"].values)
    assert np.all(np.diff(curves.seconds_of(curves["val/bpb"])) > 0)


def test_rows_that_a_resumed_run_did_anew_are_dropped(tmp_path):
    straight = read_run(write_run(tmp_path / "straight"))
    resumed = read_run(write_run(tmp_path / "resumed", splits=(3000, 6000)))
    assert len(resumed.result.metrics) == 3
    for name in ("train/loss", "val/bpb", "train/seconds"):
        a, b = straight.curves[name], resumed.curves[name]
        assert np.array_equal(a.steps, b.steps) and np.array_equal(a.values, b.values), name


def test_a_run_of_an_older_version_has_less_but_is_read(tmp_path):
    folder = write_run(tmp_path)
    newer = ("run_name", "metrics", "step_ms_quantiles", "step_ms_histogram", "tensors", "tokenizer_bytes")
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps({k: v for k, v in result.items() if k not in newer}))
    (folder / "analysis.json").unlink()
    (folder / "config.yaml").unlink()
    run = read_run(folder)
    assert (
        run.name == folder.name and run.result.tensors == [] and run.analysis is None and run.settings is None
    )
    assert len(run.curves["train/loss"]) == 181


def test_an_unfinished_run_says_so_and_shows_its_newest_log(tmp_path):
    run = read_run(write_run(tmp_path, steps=1000, splits=(500,), is_finished=False))
    assert run.result is None and run.curves["train/loss"].steps[0] == 550
    assert "no result.json" in run.notes[0] and "step 1,000" in run.notes[0]
    assert "Of 2 logs the newest" in run.notes[1]


def test_a_validation_of_an_unfinished_run_does_not_hide_its_curves(tmp_path):
    folder = write_run(tmp_path, steps=1000, is_finished=False)
    write_csv(folder / "logs/version_1/metrics.csv", [{"step": 0, "val/loss": 2.0, "train/seconds": 0.0}])
    assert read_run(folder).curves["train/loss"].steps[-1] == 1000


def test_half_a_line_of_a_run_under_way_is_left_out(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,train/loss\n10,3.5\n20,3.25\n30,3.1")
    assert read_curves([path])["train/loss"].values.tolist() == [3.5, 3.25]


def test_a_loss_that_is_no_number_is_a_gap(tmp_path):
    write_csv(tmp_path / "m.csv", [{"step": 1, "train/loss": 2.0}, {"step": 2, "train/loss": float("nan")}])
    values = read_curves([tmp_path / "m.csv"])["train/loss"].values
    assert values[0] == 2.0 and np.isnan(values[1])


def test_a_clock_that_is_no_number_says_nothing(tmp_path):
    rows = [
        {"step": i, "train/loss": 2.0, "train/seconds": s} for i, s in ((1, 1.0), (2, math.nan), (3, 3.0))
    ]
    write_csv(tmp_path / "m.csv", rows)
    curves = read_curves([tmp_path / "m.csv"])
    assert curves.seconds_of(curves["train/loss"]).tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n", "must have a column step"),
        ("step,train/loss\n1,2\n2\n", "line 3: must have 2 cells, got 1"),
        ("step,train/loss\n1,two\n", "line 2: must hold numbers, got two"),
        ("step,train/loss\n1.5,2\n", "line 2: step must be a whole number, got 1.5"),
        ("step,train/loss\n-1,2\n", "line 2: step must be a whole number, got -1"),
        ("step,train/loss\n1e300,2\n", "line 2: step must be a whole number"),
        ("step,train/loss\nnan,2\n", "line 2: step must be a whole number"),
        ("step,train/loss\n1," + "9" * 200_000 + "\n", "is no CSV"),
        ("step,\ud800\n1,2\n", "is no CSV"),
    ],
)
def test_broken_metrics_are_one_line(tmp_path, text, said):
    path = tmp_path / "metrics.csv"
    path.write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(UserError) as error:
        read_curves([path])
    assert str(error.value).startswith(str(path)) and said in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"val_loss": "low"}, "result.val_loss must be of type float"),
        ({"val_loss": float("inf")}, "result.val_loss must be finite"),
        ({"steps": None}, "result.steps must be of type int"),
        ({"steps": -1}, "steps must not be negative"),
        ({"total_bytes": 1}, "total_bytes must be artifact and code together"),
        ({"val_bpb": 1e300}, "a number must be at most 1e+30, got 1e+300"),
        ({"roundtrip_val_bpb": -5.0}, "roundtrip_val_bpb must not be negative"),
        ({"budget_bytes": 0}, "budget_bytes must be positive"),
        ({"tensors": [{"name": "x"}]}, "result.tensors.0.role is missing"),
        ({"tensors": [3]}, "tensors must be a mapping"),
        ({"step_ms_histogram": {"edges": [1, 2], "counts": [1, 2]}}, "one more than its counts"),
        ({"step_ms_histogram": {"edges": [2, 1], "counts": [1]}}, "edges must rise"),
        ({"step_ms_histogram": {"edges": [1, 2], "counts": [-1]}}, "must not be negative"),
    ],
)
def test_a_broken_result_is_one_line(tmp_path, changes, said):
    folder = write_run(tmp_path)
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps({**result, **changes}))
    with pytest.raises(UserError) as error:
        read_run(folder)
    assert str(error.value).startswith(str(folder / "result.json")) and said in str(error.value)


@pytest.mark.parametrize("text", ["", "[]", "3", '{"a"', "[" * 100_000, '{"format": 2}'])
@pytest.mark.parametrize("name", ["result.json", "analysis.json"])
def test_what_is_no_record_is_one_line(tmp_path, name, text):
    folder = write_run(tmp_path)
    (folder / name).write_text(text)
    with pytest.raises(UserError) as error:
        read_run(folder)
    assert str(error.value).startswith(str(folder / name)) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "tokens",
    [[["a"]], [["a", "b"]], [[1, 2]], [["a", True]], [["a", 10**400]], [["a", float("nan")]], 3, [None]],
)
def test_broken_tokens_are_one_line(tmp_path, tokens):
    folder = write_run(tmp_path)
    analysis = json.loads((folder / "analysis.json").read_text())
    analysis["documents"][0]["tokens"] = tokens
    (folder / "analysis.json").write_text(json.dumps(analysis))
    with pytest.raises(UserError, match="tokens must be"):
        read_run(folder)


def test_metrics_elsewhere_are_not_read(tmp_path):
    folder = write_run(tmp_path / "run")
    result = json.loads((folder / "result.json").read_text())
    for outside in ("../other.csv", str(tmp_path / "other.csv"), "logs/none.csv"):
        write_csv(tmp_path / "other.csv", [{"step": 1, "train/loss": 2.0}])
        (folder / "result.json").write_text(json.dumps({**result, "metrics": [outside]}))
        run = read_run(folder)
        assert run.curves.last_step == 0
        assert run.notes == ("1 of the 1 metrics files that result.json names are not in the folder.",)


def test_no_run_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        read_run(tmp_path / "none")
    with pytest.raises(UserError, match="is no run's folder"):
        read_run(tmp_path)
