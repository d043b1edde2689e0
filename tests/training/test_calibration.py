"""Runs whose format is calibrated after training: on which text, at what cost, and the same on all ranks."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from golden_data import GOLDEN
from golden_run import golden_data, golden_module, trainer
from lightning.pytorch import Callback
from processes import ranks, succeed

from plgolf import GPT
from plgolf.artifact import load_gpt, read_artifact
from plgolf.container import Container
from plgolf.errors import UserError
from plgolf.model.depth import RecurrenceConfig
from plgolf.quantize.calibration import Calibration, input_sums
from plgolf.quantize.codec import Raw
from plgolf.quantize.gptq import Gptq
from plgolf.quantize.low_rank import LowRank
from plgolf.quantize.plan import CodecConfig
from plgolf.quantize.rows import Rows
from plgolf.training import ArtifactExport, TrainClock
from plgolf.training.finish.calibrate import check_calibration, prepared

SMALL = {"global_batch_tokens": 8 * 64, "micro_batch_sequences": 4}


def gptq(bits, **settings):
    return CodecConfig(gptq=Gptq(rows=Rows(bits=bits, sigmas=[4.0]), **settings))


def container(**settings):
    rules = {
        "matrix": gptq(4, low_rank=LowRank(group=None)),
        "mlp of layers last 1": gptq(6),
        "embedding": gptq(6),
        "scalar": CodecConfig(raw=Raw()),
    }
    return Container(rules, "zlib", Calibration(batches=3, **settings), low_rank_tensors=2)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    export = ArtifactExport(format=container(), check_code=False)
    made = trainer(folder, export, TrainClock(max_seconds=900, reserve_seconds=600), max_steps=2)
    made.fit(golden_module(), golden_data(**SMALL))
    return made, made.lightning_module, folder / "model.plgolf", export.result


def test_codes_follow_from_the_training_batches_after_the_last_step(run):
    made, module, path, result = run
    name, gpt, stream = "blocks.3.mlp.down_proj.weight", module.gpt, made.datamodule.train_stream
    # Steps have two micro-batches: those after the last are the steps 2 and 3.
    batches = [*stream.step(2), stream.step(3)[0]]
    sums = input_sums(gpt, [name], [(batch.input_ids, None) for batch in batches])[name]
    weight = gpt.state_dict()[name]
    (planes,) = gptq(6).codec.encode_all([weight], [(sums / (3 * 4 * 64)).float()])
    codes, scales = read_artifact(path).stored[name].payload
    assert torch.equal(codes, planes["codes"]) and torch.equal(scales, planes["scales"])
    nearest = Rows(bits=6, sigmas=[4.0]).encode(weight)
    assert torch.equal(nearest["scales"], scales) and not torch.equal(nearest["codes"], codes)
    found = result["calibration"]
    assert (found["text"], found["tokens"], found["within_reserve"]) == ("training", 3 * 4 * 64, True)
    assert 0 < found["seconds"] < result["seconds"]["export"]
    assert result["quantize"]["quantize_seconds"] > 0 < result["quantize"]["compress_seconds"]
    assert not any(m._forward_pre_hooks for m in gpt.modules())


def test_the_file_is_scored_as_it_is_read(run):
    _, module, path, result = run
    restored, entries = load_gpt(path).state_dict(), {e["name"]: e for e in result["tensors"]}
    corrected = [name for name, entry in entries.items() if entry["kept"] == "int4+rank4"]
    assert len(corrected) == 2 and {entries[name]["codec"] for name in corrected} == {"gptq"}
    for name, tensor in module.gpt.state_dict().items():
        off = (restored[name] - tensor).norm() / tensor.norm()
        assert float(off) == pytest.approx(entries[name]["relative_error"], rel=1e-4, abs=1e-7)
    assert 0 < abs(result["roundtrip_val_bpb"] / result["val_bpb"] - 1) < 0.02


def test_time_beyond_the_reserve_is_told_but_a_model_may_write_text_outside_it(run, monkeypatch):
    made, module = run[:2]
    monkeypatch.setattr(module.run.clock, "reserve_seconds", 1e-9)
    monkeypatch.setattr(made.datamodule, "plan", replace(made.datamodule.plan, span_sequences=1))
    for text, within in (("training", False), ("model", True)):
        form = prepared(container(text=text), made, 1)
        assert module.run.notes["calibration"]["within_reserve"] is within
        assert all(h.diagonal().min() >= 0 and h.any() for h in form._hessians.values())


def test_layers_run_in_the_order_in_which_training_ended(run, monkeypatch):
    made, module = run[:2]
    recurrence = RecurrenceConfig(layers="1-2", starts=0.5)
    torch.manual_seed(0)
    gpt = GPT(replace(module.gpt.config, recurrence=recurrence)).at(0.0)
    monkeypatch.setattr(module, "gpt", gpt)
    found = prepared(container(), made, 1)._hessians
    stream = made.datamodule.train_stream
    batches = [(batch.input_ids, None) for batch in (*stream.step(2), stream.step(3)[0])]
    name = "blocks.1.mlp.up_proj.weight"
    sums = [input_sums(gpt.at(fraction), [name], batches)[name] for fraction in (0.0, 1.0)]
    torch.testing.assert_close(found[name], (sums[0] / (3 * 4 * 64)).float())
    assert sums[1].trace() > 1.5 * sums[0].trace()


def test_training_text_without_reserve_or_that_is_validated_on_is_refused(run, tmp_path):
    with pytest.raises(UserError, match="reserve_seconds must be positive to calibrate on training batches"):
        check_calibration(container(), run[0].datamodule, TrainClock(max_seconds=900))
    root = shutil.copytree(GOLDEN / "tied", tmp_path / "data")
    shutil.copy(min(root.glob("*_val_*.bin")), root / "fineweb_train_000099.bin")
    data = golden_data(**SMALL, root=str(root))
    check_calibration(container(text="model"), data, TrainClock(max_seconds=900))
    export = ArtifactExport(format=container())
    with pytest.raises(UserError, match="fineweb_train_000099.bin: must not be a validation shard too"):
        trainer(tmp_path, export, max_steps=1).fit(golden_module(), data)


class Compare(Callback):
    """Calibrates with all ranks, and on rank 0 alone."""

    def on_train_end(self, trainer, pl_module):
        together = prepared(container(), trainer, 2)._hessians
        if trainer.is_global_zero:
            alone = prepared(container(), trainer, 1)._hessians
            same = [torch.equal(together[name], alone[name]) for name in together]
            Path(trainer.default_root_dir, "same.json").write_text(json.dumps(same))


def one_rank(folder: Path) -> None:
    fit = trainer(folder, Compare(), max_steps=1, devices=2, strategy="ddp")
    fit.fit(golden_module(newton_schulz_dtype="float32"), golden_data(**SMALL))


@pytest.mark.slow
def test_two_ranks_calibrate_as_one(tmp_path):
    succeed(ranks(one_rank, 2, tmp_path, folder=tmp_path))
    same = json.loads((tmp_path / "same.json").read_text())
    assert len(same) == 25 and all(same)


def test_settings_without_effect_are_refused():
    rules = {"matrix": gptq(4), "scalar": CodecConfig(raw=Raw())}
    with pytest.raises(
        UserError, match="low_rank_tensors must be null where no codec of quantize has low_rank"
    ):
        Container(rules, low_rank_tensors=2)
    with pytest.raises(UserError, match="calibration must be null where no codec of quantize needs it"):
        Container({"matrix": CodecConfig(rows=Rows())}, calibration=Calibration())
