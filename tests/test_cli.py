"""The command line in processes of its own, as a user runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from golden_data import GOLDEN, TOKENIZER, meta
from runs import fit, plgolf

from plgolf.cli import main
from plgolf.data.shards import ShardReader, find_shards, find_side_cars, write_shard
from plgolf.data.tokenizer import ByteTokenizer
from plgolf.files import read_regular

REPOSITORY = Path(__file__).parent.parent
CONFIGS = REPOSITORY / "configs"


def metrics(run: Path) -> list[dict[str, str]]:
    rows = (run / "logs" / "version_0" / "metrics.csv").read_text().splitlines()
    return [dict(zip(rows[0].split(","), row.split(","), strict=True)) for row in rows[1:]]


@pytest.mark.slow
def test_validate_gives_the_score_that_fit_wrote(golden_recipe, tmp_path):
    done = plgolf("fit", "-c", golden_recipe.name, "--trainer.max_steps=3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["recipe"] == ["golden.yaml"]
    assert result["overrides"] == ["--trainer.max_steps=3"]
    assert (result["seed"], result["steps"], result["world_size"]) == (7, 3, 1)
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["model"]["gpt"]["num_layers"] == 4 and config["trainer"]["max_steps"] == 3
    checkpoint = tmp_path / "run" / "step-000003.ckpt"
    for path, key in [("run/model.int8.ptz", "roundtrip_val_bpb"), (str(checkpoint), "val_bpb")]:
        # The file decides the architecture, whatever a recipe says.
        (tmp_path / "other.yaml").write_text("model: {gpt: {num_layers: 2}}\n")
        scored = plgolf(
            *("validate", "-c", golden_recipe.name, "-c", "other.yaml", "--ckpt_path", path),
            *("--trainer.default_root_dir", "other"),
            cwd=tmp_path,
        )
        assert scored.returncode == 0, scored.stderr
        bpb = float(scored.stdout.split("val/bpb ")[1].split()[0])
        assert bpb == pytest.approx(result[key], abs=1e-6)
    assert not (tmp_path / "other" / "config.yaml").exists()


def spaced_dataset(recipe: Path) -> list[str]:
    """Prepares text with blanks that the golden tokenizer drops; returns the flags that select it."""
    texts = [f"some  text \n {i}   of  many   blanks  " * 9 for i in range(60)]
    Path("text.txt").write_text("\n---\n".join(texts))
    words = ["prepare", "text.txt", "--root", "set", "--separator", "\n---\n", "--val_documents", "20"]
    assert main(["data", *words, "--tokenizer", str(TOKENIZER)]) == 0
    return ["-c", recipe.name, "--data.root=set", "--data.tokenizer=null", "--trainer.max_steps=2"]


def test_scores_per_raw_byte_are_reported(golden_recipe, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = spaced_dataset(golden_recipe)
    assert main(["fit", *run]) == 0
    result = json.loads(Path("run/result.json").read_text())
    assert result["val_raw_bytes"] > 1.2 * result["val_bytes"]
    for prefix in ("", "roundtrip_"):
        bits = result[f"{prefix}val_bpb"] * result["val_bytes"]
        assert result[f"{prefix}val_bpb_raw"] * result["val_raw_bytes"] == pytest.approx(bits, rel=1e-12)
    # Only targets count: each scored document but the last is whole.
    tokens = ShardReader(find_shards(Path("set"), "val")).read(0, result["val_tokens"] + 1)
    counts = ShardReader(find_side_cars(Path("set"), "val", find_shards(Path("set"), "val")))
    assert result["val_raw_bytes"] == counts.read(1, result["val_tokens"]).sum(dtype=int)
    assert tokens[0] == 1
    assert result["dataset"]["root"] == "set" and len(result["dataset"]["manifest_sha256"]) == 64
    said = capfd.readouterr().out
    assert "  val/bpb_raw " in said and "per raw byte" in said
    assert "val/bpb_raw" in metrics(Path("run"))[0]
    assert main(["validate", *run[:3], "--data.tokenizer=null", "--ckpt_path=run/model.int8.ptz"]) == 0
    said = capfd.readouterr().out
    printed = float(said.split("val/bpb_raw ")[1].split()[0])
    assert printed == pytest.approx(result["roundtrip_val_bpb_raw"], abs=1e-6)
    assert f"bytes for {result['val_raw_bytes']:,} raw ones (-" in said


def test_an_artifact_is_read_once_to_validate_it(golden_recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.int8.ptz").write_bytes((GOLDEN / "tied" / "trained.int8.ptz").read_bytes())
    times = []
    monkeypatch.setattr(
        "plgolf.artifact.read_regular",
        lambda path, **bound: times.append(path.name) or read_regular(path, **bound),
    )
    assert main(["validate", "-c", golden_recipe.name, "--ckpt_path=model.int8.ptz"]) == 0
    assert times == ["model.int8.ptz"]


def test_a_dataset_that_differs_from_its_manifest_is_refused(golden_recipe, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = spaced_dataset(golden_recipe)
    capfd.readouterr()
    assert main(["fit", *run, "--data.tokenizer=none.model"]) == 2
    assert "none.model: no tokenizer there" in capfd.readouterr().err
    Path("other.json").write_bytes(ByteTokenizer().to_bytes())
    assert main(["fit", *run, "--data.tokenizer=other.json"]) == 2
    assert "other.json: is another tokenizer than the one of set/manifest.json" in capfd.readouterr().err
    write_shard(Path("set/set_train_000001.bin"), np.ones(5, dtype=np.uint16))
    assert main(["fit", *run]) == 2
    error = capfd.readouterr().err
    assert "set: the train split must have the " in error and error.count("\n") == 1
    assert not Path("run").exists()


def test_resume_needs_the_same_model_and_steps_left_to_do(golden_recipe, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "-c", golden_recipe.name, "--trainer.max_steps=2"]) == 0
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    capfd.readouterr()
    for argument, message in [
        ("--model.gpt.num_layers=2", "model.gpt.num_layers must be the checkpoint's 4, got 2"),
        ("--trainer.max_steps=1", "trainer.max_steps must be at least the 2 steps of run/step-000002.ckpt"),
    ]:
        assert main(["fit", "-c", golden_recipe.name, argument, "--ckpt_path=last"]) == 2
        said = capfd.readouterr().err
        assert message in said
        assert said.count("\n") == 1
        assert before == {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}


def test_validate_scores_an_artifact_of_the_reference_program(golden_recipe, tmp_path):
    path = str(GOLDEN / "tied" / "trained.int8.ptz")
    # The weights show the number of layers, whatever the recipe says.
    (tmp_path / "other.yaml").write_text("model: {gpt: {num_layers: 2}}\n")
    arguments = ("-c", golden_recipe.name, "-c", "other.yaml", "--data.micro_batch_sequences=3")
    scored = plgolf("validate", *arguments, "--ckpt_path", path, cwd=tmp_path)
    assert scored.returncode == 0, scored.stderr
    bpb = float(scored.stdout.split("val/bpb ")[1].split()[0])
    assert bpb == pytest.approx(meta("tied")["roundtrip"]["val_bpb"], rel=1e-5)


@pytest.mark.parametrize("micro", [8, 16])
@pytest.mark.slow
def test_two_processes_train_as_one(micro, golden_recipe, tmp_path):
    """Two ranks give the same losses and weights as one, and a checkpoint that one rank continues from."""
    runs = {}
    save = {
        "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
        "init_args": {"filename": "{step}", "every_n_train_steps": 5, "save_top_k": -1},
    }
    micro_batch = f"--data.micro_batch_sequences={micro}"
    for ranks in (1, 2):
        folder = tmp_path / f"ranks{ranks}"
        overlay = tmp_path / f"overlay{ranks}.yaml"
        init_args = {**save["init_args"], "dirpath": str(folder / "saved")}
        overlay.write_text(yaml.safe_dump({"trainer": {"callbacks": [{**save, "init_args": init_args}]}}))
        fit(golden_recipe, ranks, "-c", str(overlay), micro_batch, folder=folder)
        result = json.loads((folder / "result.json").read_text())
        assert result["world_size"] == ranks
        runs[ranks] = result, [float(r["train/loss"]) for r in metrics(folder) if r["train/loss"]]
    assert len(runs[1][1]) == len(runs[2][1]) == 10
    assert runs[2][1] == pytest.approx(runs[1][1], abs=1e-5)
    assert runs[2][0]["val_tokens"] == runs[1][0]["val_tokens"] == 5376
    assert runs[2][0]["val_loss"] == pytest.approx(runs[1][0]["val_loss"], abs=1e-5)
    # The artifact is rounded: a weight on the edge of two codes may fall either way.
    assert runs[2][0]["roundtrip_val_bpb"] == pytest.approx(runs[1][0]["roundtrip_val_bpb"], abs=1e-4)

    saved = [
        torch.load(tmp_path / f"ranks{ranks}" / "saved" / "step=10.ckpt", weights_only=True)
        for ranks in (1, 2)
    ]
    for name, tensor in saved[0]["state_dict"].items():
        difference = (tensor - saved[1]["state_dict"][name]).abs()
        # A sum over 16 sequences rounds differently from two over 8. Where the gradient of a rare piece is as
        # small as Adam's eps, that rounding decides the step.
        decided_by_rounding = difference > 1e-5
        rare = tensor.numel() // 1000 if micro == 16 and name == "gpt.embedding.weight" else 0
        assert decided_by_rounding.sum() <= rare, name
        assert difference.max() <= 1e-3, name
        assert difference[~decided_by_rounding].norm() <= 1e-5 * tensor.norm(), name
    # All momentum is there, though each rank kept only its own.
    states = [checkpoint["optimizer_states"][0]["state"] for checkpoint in saved]
    assert set(states[0]) == set(states[1])
    assert sum("momentum_buffer" in state for state in states[1].values()) == 24
    checkpoint = tmp_path / "ranks2" / "saved" / "step=5.ckpt"
    fit(golden_recipe, 1, f"--ckpt_path={checkpoint}", micro_batch, folder=tmp_path / "resumed")
    result = json.loads((tmp_path / "resumed" / "result.json").read_text())
    assert result["steps"] == 10
    assert result["val_loss"] == pytest.approx(runs[1][0]["val_loss"], abs=1e-5)


@pytest.mark.slow
def test_ranks_end_bit_identical_and_agree_on_time(tmp_path):
    """Runs two gloo processes whose clocks differ on purpose, and compares their results."""
    script = tmp_path / "rank.py"
    script.write_text(
        f"""
import sys; sys.path.insert(0, {str(REPOSITORY / "tests")!r})
import hashlib, os, time
from pathlib import Path
from golden_run import Record, golden_data, golden_module, trainer
from plgolf.training import ArtifactExport, CompileWarmup, TrainClock
clock, record, export = TrainClock(1.5), Record(), ArtifactExport(check_code=False)
if os.environ.get("LOCAL_RANK", "0") == "1":
    clock.now = lambda: 7.0 * time.perf_counter()
folder = Path({str(tmp_path)!r})
fit = trainer(folder, CompileWarmup(2), clock, record, export, max_epochs=-1, devices=2, strategy="ddp")
module = golden_module(warmdown_steps=5)
fit.fit(module, golden_data(global_batch_tokens=16 * 64, val_every_steps=7, val_batch_sequences=5))
digest = hashlib.sha256()
for tensor in module.gpt.state_dict().values():
    digest.update(tensor.numpy().tobytes())
facts = (fit.global_step, clock.elapsed_seconds, record.factors, record.validations, digest.hexdigest())
(folder / f"rank{{fit.global_rank}}.txt").write_text(repr(facts))
"""
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    ends = [(tmp_path / f"rank{rank}.txt").read_text() for rank in (0, 1)]
    assert ends[0] == ends[1]
    assert json.loads((tmp_path / "result.json").read_text())["val_tokens"] == 5376


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--trainer.max_step=3"], "did you mean --trainer.max_steps?"),
        (["--model.gpt.num_layer=3"], "did you mean --model.gpt.num_layers?"),
        (["--model.gpt.head.softcap=0"], "head.softcap must be finite and positive, got 0.0"),
        (["--model.gpt.attention.num_heads=5"], "must be a multiple of num_kv_heads (2), got 5"),
        (["--model.gpt.dim=66"], "dim must be a multiple of attention.num_heads (4), got 66"),
        (["--model.gpt.dim=many"], "model.gpt.dim must be a whole number, such as 512, got many"),
        (["--model.gpt.vocab_size=1024"], "vocab_size must equal the 512 pieces of"),
        (["--data.root=nowhere"], "nowhere: no such folder (data.root)"),
        (["--data.root=."], "no token shard matches"),
        (["--data.seq_len=8192", "--data.global_batch_tokens=8192"], "less one (5412), got 8192"),
        (["--data.micro_batch_sequences=3"], "must divide the 16 sequences of a step"),
        (["--ckpt_path=none.ckpt"], "none.ckpt: no such checkpoint (ckpt_path)"),
        (["--ckpt_path=golden.yaml.ptz"], "no such checkpoint"),
        (["--trainer.accelerator=gpu"], "gpu"),
        (["--trainer.strategy=ddpp"], "ddpp"),
        (["--trainer.max_steps=0"], "trainer.max_steps must be at least 1, or -1 for no limit, got 0"),
        (["--trainer.max_steps=-1"], "clock.max_seconds or trainer.max_steps must be set"),
        (["--trainer.max_steps=-1", "--trainer.max_epochs=1"], "clock.max_seconds or trainer.max_steps"),
        (["--trainer.accumulate_grad_batches=3"], "must be left alone, it follows from"),
        (["--trainer.val_check_interval=3"], "must be left alone, data.val_every_steps decides, got 3"),
        (["--trainer.val_check_interval=00:00:01:00"], "data.val_every_steps decides, got a time"),
        (["--trainer.gradient_clip_val=1"], "model.gradient_clip_norm clips the gradient, got 1"),
        (["--trainer.precision=bf16-mixed"], "model.gpt.compute_dtype decides"),
        (["-c", "none.yaml"], "none.yaml: no such file (-c)"),
        (["-c", "misspelt.yaml"], "did you mean data.seq_len?"),
    ],
)
def test_a_mistake_gives_one_line_and_writes_nothing(
    arguments, message, golden_recipe, tmp_path, capfd, monkeypatch
):
    (tmp_path / "misspelt.yaml").write_text("data: {seq_lenn: 3}\n")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "-c", golden_recipe.name, *arguments]) == 2
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err.startswith("plgolf: error: ") and said.err.count("\n") == 1
    assert message in said.err
    assert sorted(tmp_path.rglob("*")) == before


def test_broken_shards_give_one_line(golden_recipe, tmp_path, capfd, monkeypatch):
    data = tmp_path / "data"
    data.mkdir()
    for source in (GOLDEN / "tied").glob("*.bin"):
        (data / source.name).write_bytes(source.read_bytes())
    monkeypatch.chdir(tmp_path)
    path = data / "fineweb_val_000001.bin"
    for content, message in [
        (path.read_bytes()[:-1], "fineweb_val_000001.bin: size must be"),
        (b"\0" * 5000, "fineweb_val_000001.bin: is not a token shard"),
    ]:
        path.write_bytes(content)
        assert main(["fit", "-c", golden_recipe.name, f"--data.root={data}"]) == 2
        said = capfd.readouterr().err
        assert message in said and said.count("\n") == 1
        assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_more_ranks_than_validation_sequences_give_one_line(golden_recipe, tmp_path):
    done = plgolf(
        *("fit", "-c", golden_recipe.name, "--trainer.devices=2", "--trainer.strategy=ddp"),
        *("--data.seq_len=4096", "--data.global_batch_tokens=8192", "--data.micro_batch_sequences=1"),
        cwd=tmp_path,
    )
    assert done.returncode == 2, done.stderr
    expected = "the validation split must have a sequence for each of 2 ranks, got 1 sequences of 4096 tokens"
    assert done.stderr == f"plgolf: error: {expected}\n"
    assert not (tmp_path / "run").exists()


def test_resume_refuses_artifacts_and_foreign_checkpoints(golden_recipe, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.ptz").write_bytes(b"plain text")
    (tmp_path / "a.ckpt").write_bytes(b"x")
    torch.save({"state_dict": {}}, tmp_path / "b.ckpt")
    for command, path, message in [
        ("fit", "a.ptz", "fit cannot continue from an artifact"),
        ("validate", "a.ptz", "a.ptz: must be a zlib stream"),
        ("validate", "a.ckpt", "a.ckpt: is not a checkpoint: "),
        ("fit", "a.ckpt", "a.ckpt: is not a checkpoint: "),
        ("validate", "b.ckpt", "b.ckpt: is not a checkpoint of plgolf: it has no gpt_config"),
        ("fit", "b.ckpt", "b.ckpt: is not a checkpoint of plgolf: it has no gpt_config"),
        ("validate", "", "ckpt_path must name the checkpoint or artifact to validate"),
    ]:
        assert main([command, "-c", golden_recipe.name, f"--ckpt_path={path}"]) == 2
        said = capfd.readouterr().err
        assert message in said and said.count("\n") == 1


def test_a_run_over_budget_fails_after_everything_is_written(golden_recipe, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["--export.budget_bytes=1000", "--trainer.max_steps=1"]
    assert main(["fit", "-c", golden_recipe.name, *arguments]) == 2
    assert "total_bytes must be at most 1000, got" in capfd.readouterr().err
    assert json.loads((tmp_path / "run" / "result.json").read_text())["within_budget"] is False


def test_overlays_merge_in_order(golden_recipe, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text("model: {gpt: {num_layers: 6, head: {softcap: 15}}}\n")
    (tmp_path / "b.yaml").write_text("model: {gpt: {num_layers: 8}}\n")
    with pytest.raises(SystemExit) as end:
        main(["fit", "-c", golden_recipe.name, "-c", "a.yaml", "-c", "b.yaml", "--print_config=full"])
    assert end.value.code == 0
    config = yaml.safe_load(capfd.readouterr().out)
    gpt = config["model"]["gpt"]
    assert (gpt["num_layers"], gpt["head"]["softcap"], gpt["dim"]) == (8, 15.0, 64)


@pytest.mark.parametrize("logger", ["CSVLogger", "TensorBoardLogger"])
@pytest.mark.slow
def test_a_recipe_can_name_any_logger(logger, golden_recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    overlay = {
        "trainer": {
            "logger": {
                "class_path": f"lightning.pytorch.loggers.{logger}",
                "init_args": {"save_dir": "elsewhere"},
            }
        }
    }
    (tmp_path / "logger.yaml").write_text(yaml.safe_dump(overlay))
    assert main(["fit", "-c", golden_recipe.name, "-c", "logger.yaml", "--trainer.max_steps=1"]) == 0
    written = [path.name for path in (tmp_path / "elsewhere").rglob("*") if path.is_file()]
    assert "hparams.yaml" in written
    assert any("metrics.csv" in name or "tfevents" in name for name in written)
    has_csv_of_its_own = logger == "CSVLogger"
    assert (tmp_path / "run" / "logs").exists() != has_csv_of_its_own


@pytest.mark.parametrize("optimizer", ["torch.optim.AdamW", "torch.optim.SGD"])
@pytest.mark.slow
def test_other_optimizers_take_the_same_groups(optimizer, golden_recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    overlay = {
        "model": {
            "optimizer": {"class_path": optimizer, "init_args": {"lr": 0.001}},
            "schedule": {"class_path": "plgolf.optim.Constant"},
        }
    }
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(overlay))
    assert main(["fit", "-c", golden_recipe.name, "-c", "other.yaml", "--trainer.max_steps=2"]) == 0
    assert (tmp_path / "run" / "model.int8.ptz").exists()
