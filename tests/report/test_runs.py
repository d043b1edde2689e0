"""Folders of runs: complete, older, unfinished, resumed, broken and hostile ones."""

import csv
import json
import math
from typing import get_args

import numpy as np
import pytest
from report.folders import write_csv, write_run

from plgolf.errors import UserError
from plgolf.report.curves import read_curves
from plgolf.report.page import page_of
from plgolf.report.runs import read_run

REQUIRED = {"steps", "train_seconds", "artifact_bytes", "code_bytes", "total_bytes", "budget_bytes"}


def write_result(folder, **changes):
    result = json.loads((folder / "result.json").read_text()) | changes
    kept = {name: value for name, value in result.items() if value is not ...}
    (folder / "result.json").write_text(json.dumps(kept))


def test_all_files_of_a_run_are_read(tmp_path):
    run = read_run(write_run(tmp_path / "base", tokenizer_bytes=1000))
    assert (run.name, run.seed, run.notes) == ("base", 1337, ())
    assert run.result.tokenizer_bytes == 1000 and len(run.result.tensors) == 83
    assert sum(run.result.step_ms_histogram.counts) == run.result.steps == 9092
    assert run.result.parts["tokenizer"] == 1000 and sum(run.result.parts.values()) == run.result.total_bytes
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


def test_rows_that_a_resumed_run_repeated_are_dropped(tmp_path):
    straight = read_run(write_run(tmp_path / "straight"))
    resumed = read_run(write_run(tmp_path / "resumed", splits=(3000, 6000)))
    assert len(resumed.result.metrics) == 3
    for name in ("train/loss", "val/bpb", "train/seconds"):
        a, b = straight.curves[name], resumed.curves[name]
        assert np.array_equal(a.steps, b.steps) and np.array_equal(a.values, b.values), name


def test_a_run_of_an_older_version_is_read(tmp_path):
    folder = write_run(tmp_path)
    newer = ("run_name", "metrics", "step_ms_quantiles", "step_ms_histogram", "tensors", "tokenizer_bytes")
    write_result(folder, **dict.fromkeys(newer, ...))
    (folder / "analysis.json").unlink()
    (folder / "config.yaml").unlink()
    run = read_run(folder)
    assert run.name == folder.name and run.result.tensors == []
    assert run.analysis is None and run.settings == {}
    assert len(run.curves["train/loss"]) == 181


def test_keys_of_newer_versions_are_skipped(tmp_path):
    folder = write_run(tmp_path, every=1000, num_layers=1)
    before = read_run(folder)
    tensors = json.loads((folder / "result.json").read_text())["tensors"]
    write_result(
        folder, ways={"sliding_64": {"bpb": 1.1}}, tensors=[{**tensor, "part": "mlp"} for tensor in tensors]
    )
    assert read_run(folder).result == before.result


def test_an_unfinished_run_says_so_and_shows_its_newest_log(tmp_path):
    run = read_run(write_run(tmp_path, steps=1000, splits=(500,), is_finished=False))
    assert run.result is None and run.curves["train/loss"].steps[0] == 550
    assert "no result.json" in run.notes[0] and "step 1,000" in run.notes[0]
    assert "has 2 logs; the page shows logs/version_1/metrics.csv" in run.notes[1]


def test_a_validation_of_an_unfinished_run_does_not_hide_its_curves(tmp_path):
    folder = write_run(tmp_path, steps=1000, is_finished=False)
    write_csv(folder / "logs/version_1/metrics.csv", [{"step": 0, "val/loss": 2.0, "train/seconds": 0.0}])
    assert read_run(folder).curves["train/loss"].steps[-1] == 1000


def test_an_incomplete_last_line_is_left_out(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,train/loss\n10,3.5\n20,3.25\n30,3.1")
    assert read_curves([path])["train/loss"].values.tolist() == [3.5, 3.25]


def test_a_nan_loss_is_a_gap(tmp_path):
    write_csv(tmp_path / "m.csv", [{"step": 1, "train/loss": 2.0}, {"step": 2, "train/loss": float("nan")}])
    values = read_curves([tmp_path / "m.csv"])["train/loss"].values
    assert values[0] == 2.0 and np.isnan(values[1])


def test_nan_seconds_are_interpolated(tmp_path):
    rows = [
        {"step": i, "train/loss": 2.0, "train/seconds": s} for i, s in ((1, 1.0), (2, math.nan), (3, 3.0))
    ]
    write_csv(tmp_path / "m.csv", rows)
    curves = read_curves([tmp_path / "m.csv"])
    assert curves.seconds_of(curves["train/loss"]).tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n", "has no column step"),
        ("step,train/loss\n1,2\n2\n", "line 3 is not a row of metrics: does not have a cell for each column"),
        (
            "step,train/loss\n1,two\n",
            "line 2 is not a row of metrics: could not convert string to float: 'two'",
        ),
        ("step,train/loss\n1.5,2\n", "line 2 is not a row of metrics: step must be a whole number, got 1.5"),
        ("step,train/loss\n-1,2\n", "line 2 is not a row of metrics: step must be a whole number, got -1"),
        ("step,train/loss\n1e300,2\n", "line 2 is not a row of metrics: step must be a whole number"),
        ("step,train/loss\nnan,2\n", "line 2 is not a row of metrics: step must be a whole number"),
        ("step,train/loss\n1," + "9" * 200_000 + "\n", "is not a row of metrics: field larger than"),
    ],
)
def test_broken_metrics_are_one_line(tmp_path, text, said):
    csv.field_size_limit(131_072)  # Python's own limit, which reading a CSV corpus raises.
    path = tmp_path / "metrics.csv"
    path.write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(UserError) as error:
        read_curves([path])
    assert str(error.value).startswith(str(path)) and said in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize("value", [..., None, False, float("nan"), 1e300])
def test_a_report_needs_only_steps_seconds_and_bytes_of_a_result(tmp_path, value):
    """A run leaves null or false for what it does not know, such as the seed of an unseeded run."""
    folder = write_run(tmp_path / "run", every=1000, num_layers=1, tokenizer_bytes=1000)
    (folder / "analysis.json").unlink()
    complete = (folder / "result.json").read_text()
    for name in json.loads(complete):
        (folder / "result.json").write_text(complete)
        write_result(folder, **{name: value})
        if name in REQUIRED:
            with pytest.raises(UserError, match=rf"result.json: result.{name} is missing"):
                read_run(folder)
            continue
        run = read_run(folder)
        page = page_of(run, [])
        assert "within the budget" in page and "None" not in page and "False" not in page, name
        if name in ("val_bpb", "roundtrip_val_bpb", "roundtrip_val_loss"):
            assert "<b>nan</b>" in page
        if name == "seed":
            (folder / "config.yaml").unlink()
            assert read_run(folder).seed is None


def test_nan_inside_records_is_read_as_missing(tmp_path):
    folder = write_run(tmp_path, every=1000, num_layers=1)
    result, analysis = (json.loads((folder / name).read_text()) for name in ("result.json", "analysis.json"))
    result["tensors"][0] |= {"relative_error": float("nan"), "clipped_fraction": None}
    result["compressors_bpb"] = {"xz": None, "zlib": 2.0}
    result["seconds"]["warmup"] = float("inf")
    analysis["positions"][0]["bpb"] = analysis["documents"][0]["bpb"] = float("nan")
    analysis["documents"][0]["tokens"] = [["a", float("nan")], ["b", 10**400], ["c", 0.0]]
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "analysis.json").write_text(json.dumps(analysis))
    run = read_run(folder)
    assert run.result.tensors[0].relative_error == 0.0 and run.result.compressors_bpb == {"zlib": 2.0}
    assert "warmup" not in run.result.seconds and math.isnan(run.analysis.positions[0].bpb)
    page = page_of(run, [])
    assert '<span class="n9" title="nan nats">a</span><span class="n9" title="nan nats">b</span>' in page
    assert "1. nan bits per byte" in page


def test_roles_of_a_result_are_those_of_the_optimizer_and_have_colours():
    from plgolf.report.ledger import COLOURS
    from plgolf.report.records import Kind
    from plgolf.roles import Role

    assert set(get_args(Kind)) == {role.value for role in Role} <= set(COLOURS)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"val_bpb": "low"}, "result.val_bpb must be of type float"),
        ({"seed": True}, "result.seed must be of type int, got True"),
        ({"steps": -1}, "steps must not be negative"),
        ({"total_bytes": 1}, "total_bytes must be artifact_bytes + code_bytes"),
        ({"roundtrip_val_bpb": -5.0}, "roundtrip_val_bpb must not be negative"),
        ({"budget_bytes": 0}, "budget_bytes must be positive"),
        ({"tensors": [{"name": "x"}]}, "result.tensors.0.role is missing"),
        ({"tensors": [3]}, "result.tensors.0 must be a mapping"),
        ({"step_ms_histogram": {"edges": [1, 2], "counts": [1, 2]}}, "one edge more than counts"),
        ({"step_ms_histogram": {"edges": [2, 1], "counts": [1]}}, "edges of a histogram must rise"),
        ({"step_ms_histogram": {"edges": [1, 2], "counts": [-1]}}, "counts from 0 up"),
    ],
)
def test_a_broken_result_is_one_line(tmp_path, changes, said):
    folder = write_run(tmp_path, every=1000, num_layers=1)
    write_result(folder, **changes)
    with pytest.raises(UserError) as error:
        read_run(folder)
    assert str(error.value).startswith(str(folder / "result.json")) and said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "[]", "3", '{"a"', "[" * 100_000, '{"format": 2}'])
@pytest.mark.parametrize("name", ["result.json", "analysis.json"])
def test_a_file_that_is_not_a_record_is_one_line(tmp_path, name, text):
    folder = write_run(tmp_path, every=1000, num_layers=1)
    (folder / name).write_text(text)
    with pytest.raises(UserError) as error:
        read_run(folder)
    assert str(error.value).startswith(str(folder / name)) and "\n" not in str(error.value)


@pytest.mark.parametrize("tokens", [[["a"]], [["a", "b"]], [[1, 2]], [["a", True]], 3, [None]])
def test_broken_tokens_are_one_line(tmp_path, tokens):
    folder = write_run(tmp_path, every=1000, num_layers=1)
    analysis = json.loads((folder / "analysis.json").read_text())
    analysis["documents"][0]["tokens"] = tokens
    (folder / "analysis.json").write_text(json.dumps(analysis))
    with pytest.raises(UserError, match=r"analysis.json: .*tokens.* must be"):
        read_run(folder)


def test_metrics_outside_the_folder_are_not_read(tmp_path):
    folder = write_run(tmp_path / "run")
    for outside in ("../other.csv", str(tmp_path / "other.csv"), "logs/none.csv"):
        write_csv(tmp_path / "other.csv", [{"step": 1, "train/loss": 2.0}])
        write_result(folder, metrics=[outside])
        run = read_run(folder)
        assert run.curves.last_step == 0
        assert run.notes == ("1 of the 1 metrics files that result.json lists are not in the folder.",)


def test_a_folder_without_a_run_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        read_run(tmp_path / "none")
    with pytest.raises(UserError, match="must hold a run"):
        read_run(tmp_path)
