"""What a run leaves of itself: the ledger by tensor, the score taken apart, rows for loggers."""

import csv
import itertools
import json
import math
import subprocess
import tracemalloc
import warnings
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from golden_run import golden_data, golden_module, trainer
from lightning.pytorch.loggers import CSVLogger
from runs import fit as fit_ranks

from plgolf.artifact import load_gpt
from plgolf.cli import main
from plgolf.data.stream import ValidationSplit
from plgolf.evaluate import Scored, split_targets
from plgolf.evaluate.analysis import ScoreAnalysis
from plgolf.quantize.measure import measure_tensors
from plgolf.reference import read_artifact_dict, weight_name_to_reference
from plgolf.reference.int8_zlib import compressed_bytes, dequantize_state_dict
from plgolf.reference.measure import stored_tensors
from plgolf.roles import parameter_roles
from plgolf.training import ArtifactExport
from plgolf.training.finish import provenance
from plgolf.training.finish.details import step_times


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    module, data = golden_module(), golden_data()
    export = ArtifactExport(check_code=False)
    logger = CSVLogger(folder, name="logs")
    trainer(folder, export, max_steps=6, logger=logger, log_every_n_steps=2).fit(module, data)
    return folder, module, data, export.result


def test_the_ledger_has_every_tensor_with_what_it_lost(run):
    folder, module, _, result = run
    entries = {entry["name"]: entry for entry in result["tensors"]}
    restored = load_gpt(folder / "model.int8.ptz").state_dict()
    obj = read_artifact_dict(folder / "model.int8.ptz")
    assert entries.keys() == module.gpt.state_dict().keys()
    assert {name: entry["role"] for name, entry in entries.items()} == {
        name: role.value for name, role in parameter_roles(module.gpt).items()
    }
    for name, tensor in module.gpt.state_dict().items():
        entry, was, now = entries[name], tensor.double(), restored[name].double()
        assert (entry["shape"], entry["num_params"]) == (list(tensor.shape), tensor.numel())
        size = was.square().mean().sqrt()
        error = (was - now).square().mean().sqrt() / size if size else 0.0
        assert entry["relative_error"] == pytest.approx(float(error), rel=1e-4, abs=1e-9)
        codes = obj["quantized"].get(weight_name_to_reference(name))
        assert (entry["kept"] == "int8") == (codes is not None)
    assert sum(e["num_params"] for e in entries.values()) == result["num_params"]
    assert sum(e["payload_bytes"] for e in entries.values()) == result["quantize"]["int8_payload_bytes"]
    # Compressed together they share a container and a window, but no tensor can hide from the sum.
    together = sum(e["compressed_bytes"] for e in entries.values())
    assert together == pytest.approx(result["artifact_bytes"], rel=0.1)


def test_clipped_values_and_compressed_bytes_are_what_they_are():
    weights = torch.ones(4, 10)
    weights[0, 0] = 100.0
    obj = {
        "__quant_format__": "int8_clean_per_row_v1",
        "quantized": {"w": torch.full((4, 10), 127, dtype=torch.int8)},
        "scales": {"w": torch.full((4,), 1 / 127, dtype=torch.float16)},
        "dtypes": {"w": "float32"},
        "passthrough": {},
        "qmeta": {"w": {"scheme": "per_row", "axis": 0}},
    }
    restored = dequantize_state_dict(obj)
    (entry,) = measure_tensors(stored_tensors(obj), restored, {"w": weights}, compressed_bytes)
    assert entry.clipped_fraction == pytest.approx(1 / 40)
    payload = bytes([127] * 40) + obj["scales"]["w"].numpy().tobytes()
    assert (entry.payload_bytes, entry.compressed_bytes) == (48, len(zlib.compress(payload, 9)))


def test_the_analysis_adds_up_to_the_score(run):
    folder, _, data, result = run
    analysis = json.loads((folder / "analysis.json").read_text())
    positions = analysis["positions"]
    assert [p["first"] for p in positions[1:]] == [p["last"] + 1 for p in positions[:-1]]
    assert (positions[0]["first"], positions[-1]["last"]) == (0, data.seq_len - 1)
    sequences = result["val_tokens"] // data.seq_len
    nats = [p["loss"] * (p["last"] - p["first"] + 1) * sequences for p in positions]
    assert sum(nats) / result["val_tokens"] == pytest.approx(result["roundtrip_val_loss"], rel=1e-6)
    num_bytes = [n / math.log(2) / p["bpb"] for n, p in zip(nats, positions, strict=True)]
    assert sum(num_bytes) == pytest.approx(result["val_bytes"], rel=1e-6)


def test_the_hardest_documents_are_the_hardest(run):
    folder, _, data, _ = run
    documents = json.loads((folder / "analysis.json").read_text())["documents"]
    gpt = load_gpt(folder / "model.int8.ptz")
    tokens = data.val_split.tokens().astype(np.int64)
    inputs = torch.from_numpy(tokens[:-1]).view(-1, data.seq_len)
    targets = torch.from_numpy(tokens[1:]).view(-1, data.seq_len)
    with torch.no_grad():
        nats = gpt(inputs, targets, reduction="none").flatten().double().numpy()
    num_bytes = data.byte_counts.of_stream(data.val_split.tokens())[1:]
    starts = [0, *(np.flatnonzero(tokens[1:] == data.tokenizer.bos_id) + 1), len(nats)]
    scores = []
    for first, end in itertools.pairwise(starts):
        last = end if end == len(nats) else end - 1
        if last - first >= 64:
            cost = nats[first:last].sum() / math.log(2) / num_bytes[first:last].sum()
            scores.append((cost, first + 1, last - first))
    scores = sorted(scores, reverse=True)[:8]
    assert len(documents) == len(scores) > 0
    for document, (bpb, start, size) in zip(documents, scores, strict=True):
        assert (document["start_token"], document["num_tokens"]) == (start, size)
        assert document["bpb"] == pytest.approx(bpb, rel=1e-4)
        shown = start - 1 + document["shown_from"]
        costs = [cost for _, cost in document["tokens"]]
        assert costs == pytest.approx(nats[shown : shown + len(costs)].tolist(), abs=1e-3)
        ids = tokens[1 + shown : 1 + shown + len(costs)].tolist()
        assert "".join(text for text, _ in document["tokens"]) == data.tokenizer.decode(ids)


@pytest.mark.slow
def test_the_analysis_keeps_no_more_than_a_document(run):
    _, _, data, _ = run
    tokens = np.random.default_rng(0).integers(3, data.vocab_size, 2**20 + 1, dtype=np.uint16)
    tokens[::500] = data.tokenizer.bos_id
    reader = SimpleNamespace(num_tokens=tokens.size, read=lambda start, count: tokens[start : start + count])
    split = ValidationSplit(reader, seq_len=1024, batch_sequences=4)
    targets = split_targets(split, data.tokenizer)
    analysis = ScoreAnalysis(targets, data.tokenizer, num_documents=3)
    tracemalloc.start()
    for index in range(len(split)):
        first, nats = split.batch(index).first, torch.full((4 * 1024,), 1.0 + index)
        analysis.add(Scored(first, nats), targets.num_bytes(first, 4 * 1024))
    found = analysis.finish(torch.device("cpu"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20  # A byte for each token; the losses alone were four.
    # The losses rise, and the split ends within a document.
    assert sorted(document["num_tokens"] for document in found["documents"]) == [76, 499, 499]
    assert found["positions"][0]["loss"] == pytest.approx(1.0 + (len(split) - 1) / 2)


@pytest.mark.slow
def test_ranks_together_find_what_one_finds(golden_recipe, tmp_path):
    found = []
    for world_size in (1, 2):
        folder = tmp_path / str(world_size)
        fit_ranks(golden_recipe, world_size, "--trainer.max_steps=2", folder=folder)
        found.append(json.loads((folder / "analysis.json").read_text()))
    one, two = found
    assert [p["first"] for p in one["positions"]] == [p["first"] for p in two["positions"]]
    for left, right in zip(one["positions"], two["positions"], strict=True):
        assert left["loss"] == pytest.approx(right["loss"], rel=1e-4)
    # But for the one that the border between two ranks cuts.
    same = {d["start_token"] for d in one["documents"]} & {d["start_token"] for d in two["documents"]}
    assert len(same) >= len(one["documents"]) - 2


def test_steps_that_take_the_same_time_have_a_histogram(tmp_path):
    seconds = [(step + 1) * 0.1 - step * 0.1 for step in range(20)]
    assert len(set(seconds)) > 1
    times = step_times(seconds)
    assert sum(times["step_ms_histogram"]["counts"]) == 20
    assert times["step_ms_quantiles"]["p50"] == pytest.approx(100.0)


def test_the_commit_is_of_the_sources_not_of_a_project_they_are_installed_in(tmp_path, monkeypatch):
    def git(*words):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *words], check=True, capture_output=True)

    git("init")
    git("commit", "--allow-empty", "-m", "theirs")
    source = tmp_path / "provenance.py"
    source.write_text("")
    monkeypatch.setattr(provenance, "__file__", str(source))
    assert provenance.git_commit() is None
    git("add", "provenance.py")
    git("commit", "-m", "ours")
    assert len(provenance.git_commit()) == 40


def test_rows_say_where_the_run_was(run):
    folder, _, _, result = run
    assert result["metrics"] == ["logs/version_0/metrics.csv"]
    with (folder / result["metrics"][0]).open() as file:
        rows = list(csv.DictReader(file))
    training = [row for row in rows if row["train/loss"]]
    assert [row["step"] for row in training] == ["2", "4", "6"]
    seconds = [float(row["train/seconds"]) for row in training]
    assert seconds == sorted(seconds) and seconds[-1] == result["train_seconds"]
    steps = np.diff([0.0, *seconds]) / 2
    assert [float(row["train/step_ms"]) for row in training] == pytest.approx((1000 * steps).tolist())
    assert [float(row["train/momentum"]) for row in training] == pytest.approx(
        [0.92 + 0.07 * (step - 1) / 1500 for step in (2, 4, 6)]
    )
    assert {float(row["train/lr_factor"]) for row in training} == {1.0}
    validation = next(row for row in rows if row["val/bpb"])
    assert float(validation["train/seconds"]) == result["train_seconds"]
    assert rows[-1]["roundtrip/bpb"] == str(result["roundtrip_val_bpb"])
    quantiles = result["step_ms_quantiles"]
    assert list(quantiles.values()) == sorted(quantiles.values())
    assert sum(result["step_ms_histogram"]["counts"]) == 6


@pytest.mark.slow
def test_a_resumed_run_knows_the_metrics_of_before(golden_recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "-c", golden_recipe.name, "--trainer.max_steps=2"]) == 0
    assert main(["fit", "-c", golden_recipe.name, "--trainer.max_steps=3", "--resume=auto"]) == 0
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["metrics"] == ["logs/version_0/metrics.csv", "logs/version_1/metrics.csv"]
    # A log that is written over counts once.
    version = "{class_path: lightning.pytorch.loggers.CSVLogger, init_args: {save_dir: run, version: 1}}"
    again = ["--trainer.max_steps=4", "--resume=auto", f"--trainer.logger={version}"]
    for steps in (4, 5):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Experiment logs directory")
            again[0] = f"--trainer.max_steps={steps}"
            assert main(["fit", "-c", golden_recipe.name, *again]) == 0
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert [path for path in result["metrics"] if "lightning_logs" in path] == [
        "lightning_logs/version_1/metrics.csv"
    ]
    # A run that is only exported again has made no steps, and its report no times of them.
    assert main(["fit", "-c", golden_recipe.name, "--trainer.max_steps=5", "--resume=auto"]) == 0
    assert "step_ms_quantiles" not in json.loads((tmp_path / "run/result.json").read_text())
    assert main(["report", "run"]) == 0
