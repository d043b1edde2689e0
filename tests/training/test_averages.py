"""Averages of the weights: their formulas, what has them, exact resume, two ranks, packed code."""

import io
import json
import re
import tarfile
from copy import deepcopy
from pathlib import Path

import pytest
import torch
import yaml
from golden_run import golden_data, golden_module, trainer
from lightning.pytorch import Callback
from runs import assert_same, fit, load

from plgolf.artifact import read_artifact
from plgolf.cli import main
from plgolf.errors import UserError
from plgolf.submission.packing import pack_code
from plgolf.training import ArtifactExport, GolfModule, RunCheckpoint, WeightAverages
from plgolf.training.finish.packed_code import packed_config

KINDS = pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"ema": 0.7}, marks=pytest.mark.slow),
        pytest.param({"tail": 0.5}, marks=pytest.mark.slow),
        pytest.param({"ema": 0.7, "own": 0.4}, marks=pytest.mark.slow),
        {"ema": 0.7, "tail": 0.5, "blend": 0.25},
    ],
)


class Weights(Callback):
    """Notes the weights before the first step and after each, and those that are validated."""

    def __init__(self) -> None:
        self.seen: list[dict] = []
        self.validated: list[dict] = []

    def on_train_start(self, fit, module):
        self.seen.append(deepcopy(module.state_dict()))

    def on_train_batch_end(self, fit, module, *_):
        self.seen.append(deepcopy(module.state_dict()))

    def on_validation_batch_start(self, fit, module, *_):
        self.validated.append(deepcopy(module.state_dict()))


def run(folder: Path, averages: WeightAverages | None, *callbacks: Callback, steps: int = 6, **words):
    module, save = golden_module(newton_schulz_dtype="float32"), RunCheckpoint(every_steps=1, keep=99)
    used = [averages] if averages else []
    done = trainer(folder, *used, *callbacks, save, max_steps=steps, enable_checkpointing=True)
    done.fit(module, golden_data(val_every_steps=3), **words)
    return module


def expected(seen: list[dict], ema=None, tail=None, blend=0.5, own=0.0) -> dict[str, torch.Tensor]:
    """The averages after the last of the weights, in float64."""
    found = {}
    for name in seen[0]:
        values = [weights[name].double() for weights in seen]
        moving = values[0]
        for value in values[1:]:
            moving = (ema or 0) * moving + (1 - (ema or 0)) * value
        mean = torch.stack(values[3:] if len(values) > 3 else values[-1:]).mean(0)  # From step 3 of 6 on.
        mixed = blend * moving + (1 - blend) * mean
        average = mixed if ema and tail else moving if ema else mean
        found[name] = (1 - own) * average + own * values[-1]
    return found


@KINDS
def test_averages_follow_their_formula_and_are_validated_and_saved(settings, tmp_path):
    weights = Weights()
    module = run(tmp_path, WeightAverages(**settings), weights)
    ends = expected(weights.seen, **settings)
    assert len(weights.seen) == 7
    found = module.state_dict()
    for name, value in ends.items():
        torch.testing.assert_close(found[name].double(), value, rtol=1e-5, atol=1e-7)
    assert not torch.allclose(found["gpt.embedding.weight"], weights.seen[-1]["gpt.embedding.weight"])
    assert_same(weights.validated[-1], dict(found))
    # Validation left the weights of training as they were.
    for name, value in expected(weights.seen[:4], **settings).items():
        torch.testing.assert_close(weights.validated[0][name].double(), value, rtol=1e-5, atol=1e-7)
    saved = load(tmp_path / "step-000006.ckpt")
    assert_same(dict(saved["state_dict"]), dict(found))
    assert_same(saved["averages"]["raw"], dict(weights.seen[-1]))
    again = GolfModule.load_from_checkpoint(tmp_path / "step-000006.ckpt")
    assert_same(dict(again.state_dict()), dict(found))
    scored = trainer(tmp_path).validate(again, golden_data(), verbose=False)[0]
    assert scored["val/loss"] == pytest.approx(module.run.val_score.loss, rel=1e-6)


@pytest.mark.slow
def test_the_averages_are_exported_and_the_result_has_the_score_of_the_weights_themselves(tmp_path):
    plain, averaged = ArtifactExport(check_code=False), ArtifactExport(check_code=False)
    run(tmp_path / "plain", None, plain)
    module = run(tmp_path / "averaged", WeightAverages(ema=0.9), averaged)
    for name, tensor in read_artifact(tmp_path / "averaged" / "model.int8.ptz").weights.items():
        trained = module.gpt.state_dict()[name]
        assert (tensor - trained).norm() <= 0.02 * trained.norm(), name
    notes = averaged.result["averages"]
    assert notes["raw_val_loss"] == plain.result["val_loss"] != averaged.result["val_loss"]
    assert notes["raw_val_bpb"] == plain.result["val_bpb"] != averaged.result["val_bpb"]
    assert (notes["ema"], notes["tail"], notes["tail_steps"]) == (0.9, None, 0)
    assert averaged.result["roundtrip_val_bpb"] == pytest.approx(averaged.result["val_bpb"], rel=1e-2)
    assert "averages" not in plain.result
    written = json.loads((tmp_path / "averaged" / "result.json").read_text())
    assert written["averages"] == notes


@KINDS
@pytest.mark.parametrize("step", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_a_resumed_run_ends_with_the_same_averages(settings, step, tmp_path):
    whole = run(tmp_path / "whole", WeightAverages(**settings))
    path = tmp_path / "whole" / f"step-{step:06}.ckpt"
    again = run(tmp_path / "again", WeightAverages(**settings), ckpt_path=path)
    assert_same(dict(whole.state_dict()), dict(again.state_dict()))
    assert whole.run.val_score == again.run.val_score
    ends = [load(tmp_path / name / "step-000006.ckpt") for name in ("whole", "again")]
    for name in ("state_dict", "averages", "optimizer_states"):
        assert_same(*(dict(end)[name] for end in ends), name)


@pytest.mark.slow
def test_a_run_that_resumes_in_another_way_is_refused_or_exact(tmp_path):
    plain = run(tmp_path / "plain", None, steps=4)
    run(tmp_path / "ema", WeightAverages(ema=0.9), steps=4)
    of = {name: tmp_path / name / "step-000002.ckpt" for name in ("plain", "ema")}
    with pytest.raises(UserError, match="averages must be set: the checkpoint's weights are averages"):
        run(tmp_path / "a", None, steps=4, ckpt_path=of["ema"])
    with pytest.raises(UserError, match=r"averages\.ema must be null: the checkpoint's run had begun"):
        run(tmp_path / "b", WeightAverages(ema=0.9), steps=4, ckpt_path=of["plain"])
    with pytest.raises(UserError, match=r"averages\.tail must be null: the checkpoint's run had begun"):
        run(tmp_path / "c", WeightAverages(tail=0.8), steps=4, ckpt_path=of["plain"])
    # The tail has not begun, and the weights themselves are those of the plain run.
    weights = Weights()
    tail = run(tmp_path / "d", WeightAverages(tail=0.25), weights, steps=4, ckpt_path=of["ema"])
    assert_same(dict(weights.seen[-1]), dict(plain.state_dict()))
    for name, value in tail.state_dict().items():
        mean = (weights.seen[-1][name].double() + weights.seen[-2][name].double()) / 2
        torch.testing.assert_close(value.double(), mean, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("bad", [{"ema": torch.zeros(2)}, {"raw": {}}, {"tail_steps": 0}])
def test_malformed_averages_are_refused(bad, tmp_path):
    settings = {"ema": 0.5, "tail": 0.9}
    run(tmp_path / "run", WeightAverages(**settings), steps=2)
    path = tmp_path / "run" / "step-000001.ckpt"
    saved = load(path)
    saved["averages"] |= bad
    torch.save(saved, path)
    with pytest.raises(UserError, match="the checkpoint's"):
        run(tmp_path / "again", WeightAverages(**settings), steps=2, ckpt_path=path)


@pytest.mark.parametrize("name", ["ema", "tail", "blend"])
@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_shares_out_of_range_are_refused(name, share):
    with pytest.raises(UserError, match=f"^{name} must be above 0 and below 1"):
        WeightAverages(**{name: share})


def test_an_export_before_the_averages_is_refused(tmp_path):
    with pytest.raises(UserError, match="must have WeightAverages before ArtifactExport"):
        trainer(tmp_path, ArtifactExport(check_code=False), WeightAverages(ema=0.9), max_steps=1).fit(
            golden_module(), golden_data()
        )


class FailAtEnd(Callback):
    def on_train_end(self, *_):
        raise RuntimeError("failed in on_train_end")


@pytest.mark.slow
def test_the_export_after_a_failure_is_of_the_averages(tmp_path):
    run(tmp_path / "whole", WeightAverages(ema=0.9), ArtifactExport(check_code=False), steps=2)
    callbacks = [FailAtEnd(), WeightAverages(ema=0.9), ArtifactExport(check_code=False)]
    failed = trainer(tmp_path / "failed", *callbacks, max_steps=2)
    with pytest.raises(RuntimeError, match="failed in"):
        failed.fit(golden_module(newton_schulz_dtype="float32"), golden_data(val_every_steps=3))
    files = [(tmp_path / name / "model.int8.ptz").read_bytes() for name in ("whole", "failed")]
    assert files[0] == files[1]


@pytest.mark.slow
def test_the_command_line_has_averages_off_unless_they_are_set(golden_recipe, tmp_path, capfd):
    command = ["fit", "-c", str(golden_recipe), "--trainer.max_steps=2"]
    words = ["--averages.ema=0.9", "--averages.tail=0.5"]
    assert main([*command, *words, f"--trainer.default_root_dir={tmp_path}/on"]) == 0
    result = json.loads((tmp_path / "on" / "result.json").read_text())
    assert result["averages"]["ema"] == 0.9 and result["averages"]["tail_steps"] == 2
    raw = result["averages"]["raw_val_bpb"]
    assert re.search(
        rf"not averaged +{raw:.4f}  val/loss .* of the weights themselves", capfd.readouterr().out
    )
    saved = load(tmp_path / "on" / "step-000002.ckpt")
    assert set(saved["averages"]) == {"tail_steps", "raw", "ema", "tail"}
    assert main([*command, f"--trainer.default_root_dir={tmp_path}/off"]) == 0
    assert "averages" not in load(tmp_path / "off" / "step-000002.ckpt")
    assert "not averaged" not in capfd.readouterr().out


def test_the_packed_configuration_names_averages_only_where_they_are_used():
    off = packed_config("averages: {ema: null, tail: null, blend: 0.5}\ntrainer: {max_steps: 3}\n")
    assert "averages" not in off
    on = packed_config("averages: {ema: 0.9, tail: null, blend: 0.5}\ntrainer: {callbacks: null}\n")
    callback = {"class_path": "plgolf.training.averages.WeightAverages", "init_args": {"ema": 0.9}}
    assert yaml.safe_load(on)["trainer"] == {"callbacks": [callback]}


@pytest.mark.slow
def test_packed_code_has_averages_only_where_they_are_used():
    for settings, is_used in (("{ema: 0.9}", True), ("{ema: null}", False)):
        archive = pack_code(packed_config(f"averages: {settings}\ntrainer: {{max_steps: 3}}\n")).archive
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            assert ("plgolf/training/averages.py" in files.getnames()) == is_used


@pytest.mark.slow
def test_two_ranks_end_with_the_averages_of_one(golden_recipe, tmp_path):
    words = ("--trainer.max_steps=4", "--averages.ema=0.7", "--averages.tail=0.6")
    for count in (1, 2):
        fit(golden_recipe, count, *words, folder=tmp_path / str(count))
    results = [json.loads((tmp_path / str(count) / "result.json").read_text()) for count in (1, 2)]
    for name in ("raw_val_loss", "tail_steps"):
        assert results[0]["averages"][name] == pytest.approx(results[1]["averages"][name], rel=1e-4)
    assert results[0]["val_loss"] == pytest.approx(results[1]["val_loss"], rel=1e-4)
    assert results[1]["val_loss"] != results[1]["averages"]["raw_val_loss"]
