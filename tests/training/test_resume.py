"""A run that was interrupted ends as the one that was not: to the bit."""

import os
import shutil
import signal
from functools import partial
from pathlib import Path

import pytest
import torch
from golden_data import GOLDEN
from golden_run import Record, golden_data, golden_module, trainer
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.callbacks import LambdaCallback
from runs import assert_same_end, fit, rows

from plgolf.cli import main
from plgolf.data.shards import ShardReader, find_shards, write_shard
from plgolf.errors import StoppedBySignal, UserError
from plgolf.files import lock_folder
from plgolf.training import RunCheckpoint
from plgolf.training.checkpoints.run_checkpoint import checkpoints


@pytest.mark.parametrize(
    ("world_size", "dtype", "steps"),
    [
        (1, "float32", (1, 3, 6)),
        pytest.param(1, "bfloat16", (3,), marks=pytest.mark.slow),
        pytest.param(2, "float32", (3,), marks=pytest.mark.slow),
        pytest.param(2, "bfloat16", (1, 3, 6), marks=pytest.mark.slow),
    ],
)
def test_a_resumed_run_is_the_uninterrupted_one(world_size, dtype, steps, golden_recipe, tmp_path):
    words = (f"--model.gpt.compute_dtype={dtype}", "--data.val_every_steps=3", "--checkpoint.keep=100")
    words = (*words, "--checkpoint.every_steps=1", "--trainer.max_steps=7")
    fit(golden_recipe, world_size, *words, folder=tmp_path / "whole")
    for step in steps:
        path = tmp_path / "whole" / f"step-{step:06}.ckpt"
        fit(golden_recipe, world_size, *words, f"--ckpt_path={path}", folder=tmp_path / f"from{step}")
        assert_same_end(tmp_path / "whole", tmp_path / f"from{step}", 7)
        # What was logged after it is logged again, the validation that was due at its step as well.
        whole, resumed = rows(tmp_path / "whole"), rows(tmp_path / f"from{step}")
        assert resumed == [row for row in whole if row[0] > step or (row[0] == step and row[1] == "val/bpb")]


class SaveEverywhere(Callback):
    """Saves after every step and after every validation."""

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        trainer.save_checkpoint(f"{trainer.default_root_dir}/{trainer.global_step}.ckpt")

    def on_validation_end(self, trainer, module):
        trainer.save_checkpoint(f"{trainer.default_root_dir}/{trainer.global_step}v.ckpt")


@pytest.mark.parametrize("at", ["1", "2", "2v", "3", "4", "4v", "5"])
def test_any_moment_will_do(at, saved_everywhere, tmp_path):
    whole, module, folder = saved_everywhere
    again, resumed = Record(), golden_module(warmdown_steps=3)
    fit = trainer(tmp_path, again, max_steps=6)
    fit.fit(resumed, quarter_batches(), ckpt_path=folder / f"{at}.ckpt")
    step = int(at[0])
    assert again.losses == whole.losses[step:]
    assert again.factors == whole.factors[step:]
    assert again.momenta == whole.momenta[step:]
    # The validation that is due at its step came after a checkpoint of the step's end, before any other.
    expected = [score for score in whole.validations if score[0] > step or at == f"{score[0]}"]
    assert again.validations == expected
    assert all(torch.equal(t, resumed.gpt.state_dict()[name]) for name, t in module.gpt.state_dict().items())


def quarter_batches():
    return golden_data(global_batch_tokens=16 * 64, micro_batch_sequences=4, val_every_steps=2)


@pytest.fixture(scope="module")
def saved_everywhere(tmp_path_factory):
    folder = tmp_path_factory.mktemp("everywhere")
    whole, module = Record(), golden_module(warmdown_steps=3)
    trainer(folder, whole, SaveEverywhere(), max_steps=6).fit(module, quarter_batches())
    assert [step for step, _ in whole.validations] == [2, 4, 6]
    return whole, module, folder


@pytest.fixture(scope="module")
def three_steps(tmp_path_factory, golden_recipe_file) -> Path:
    folder = tmp_path_factory.mktemp("three")
    shutil.copytree(GOLDEN / "tied", folder / "data")
    words = (f"--data.root={folder}/data", f"--data.tokenizer={folder}/data/tokenizer.model")
    fit(golden_recipe_file, 1, "--trainer.max_steps=3", *words, folder=folder / "run")
    return folder


def resume(recipe: Path, folder: Path, *words: str) -> int:
    data = (f"--data.root={folder}/data", f"--data.tokenizer={folder}/data/tokenizer.model")
    run = (f"--trainer.default_root_dir={folder}/run", "--trainer.max_steps=4", "--ckpt_path=last")
    return main(["fit", "-c", str(recipe), *data, *run, *words])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data.seq_len=32"], "data.seq_len must be the checkpoint's 64, got 32"),
        (
            ["--data.global_batch_tokens=2048"],
            "data.global_batch_tokens must be the checkpoint's 1024, got 2048",
        ),
        (["--data.micro_batch_sequences=4"], "data.micro_batch_sequences must be the checkpoint's 8, got 4"),
        (["--model.gpt.dim=32"], "model.gpt.dim must be the checkpoint's 64, got 32"),
        (["--model.gpt.head.softcap=9"], "model.gpt.head.softcap must be the checkpoint's 30.0, got 9.0"),
        (["--model.gpt.compute_dtype=bfloat16"], "must be the checkpoint's float32, got bfloat16"),
        (["--trainer.max_steps=2"], "trainer.max_steps must be at least the 3 steps of "),
        (["--resume=auto"], "resume must be left alone where ckpt_path is given, got last"),
    ],
)
def test_another_run_is_refused_with_both_values(words, message, three_steps, golden_recipe, capfd):
    before = {path: path.read_bytes() for path in (three_steps / "run").rglob("*") if path.is_file()}
    assert resume(golden_recipe, three_steps, *words) == 2
    said = capfd.readouterr()
    assert message in said.err and said.err.count("\n") == 1 and said.out == ""
    assert before == {path: path.read_bytes() for path in (three_steps / "run").rglob("*") if path.is_file()}


def test_other_shards_or_another_tokenizer_are_refused(three_steps, golden_recipe, tmp_path, capfd):
    folder = tmp_path / "copy"
    shutil.copytree(three_steps, folder)
    path = find_shards(folder / "data", "train")[0].path
    tokens = ShardReader(find_shards(folder / "data", "train")[:1]).read(0, 5000)
    whole = path.read_bytes()
    for changed in (tokens[::-1].copy(), tokens[:-1]):
        write_shard(path, changed)
        assert resume(golden_recipe, folder) == 2
        error = capfd.readouterr().err
        assert f"data.train_shards.{path.name} must be the checkpoint's " in error
        assert f"tokens, got {changed.size} tokens" in error or f"got {changed.size} tokens, " in error
    path.write_bytes(whole)
    write_shard(folder / "data" / "more_train_000009.bin", tokens)
    assert resume(golden_recipe, folder) == 2
    assert "data.train_shards.more_train_000009.bin must be the checkpoint's None, got 5000 tokens" in (
        capfd.readouterr().err
    )
    assert resume(golden_recipe, folder, "--checkpoint.allow_changed=[data.train_shards]") == 0


@pytest.mark.parametrize(
    ("words", "allowed"),
    [(["--data.seq_len=32"], "data.seq_len"), (["--model.gpt.head.softcap=20"], "model.gpt.head.softcap")],
)
def test_a_change_that_is_asked_for_goes_on(words, allowed, three_steps, golden_recipe, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(three_steps, folder)
    assert resume(golden_recipe, folder, *words, f"--checkpoint.allow_changed=[{allowed}]") == 0
    assert checkpoints(folder / "run")[0].name == "step-000004.ckpt"


@pytest.mark.slow
def test_settings_of_the_optimizer_are_those_of_the_resumed_run(golden_recipe, tmp_path):
    words = ("--model.schedule.class_path=plgolf.optim.Constant", "--checkpoint.every_steps=1")
    fit(golden_recipe, 1, *words, "--trainer.max_steps=2", folder=tmp_path)
    scalar = "--model.optimizer.init_args.scalar={lr: 0.5, betas: [0.8, 0.9]}"
    fit(golden_recipe, 1, *words, "--trainer.max_steps=3", "--ckpt_path=last", scalar, folder=tmp_path)
    saved = torch.load(tmp_path / "step-000003.ckpt", weights_only=True)
    groups = {group["name"]: group for group in saved["optimizer_states"][0]["param_groups"]}
    assert groups["scalar"]["lr"] == 0.5 and tuple(groups["scalar"]["betas"]) == (0.8, 0.9)
    assert groups["matrix"]["lr"] == 0.02 and groups["matrix"]["step"] == 3


def test_auto_starts_fresh_where_there_is_nothing(golden_recipe, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["fit", "-c", golden_recipe.name, "--trainer.max_steps=2"]
    assert main([*words, "--ckpt_path=last"]) == 2
    assert capfd.readouterr().err == "plgolf: error: run: holds no checkpoint (ckpt_path: last)\n"
    assert main([*words, "--resume=auto"]) == 0
    assert "step 1/2  loss" in capfd.readouterr().out
    # A run that is at its end is exported again, without a step.
    Path("run/result.json").unlink()
    assert main([*words, "--resume=auto"]) == 0
    assert "step 1/2  loss" not in capfd.readouterr().out
    assert Path("run/result.json").exists()


def test_old_checkpoints_go_and_the_default_is_by_time(tmp_path):
    save = RunCheckpoint(every_steps=1, keep=2)
    fit = trainer(tmp_path, save, max_steps=5, enable_checkpointing=True)
    fit.fit(golden_module(), golden_data())
    assert [path.name for path in checkpoints(tmp_path)] == ["step-000005.ckpt", "step-000004.ckpt"]
    for settings, message in [({"keep": 0}, "^keep"), ({"every_seconds": 0}, "^every_seconds")]:
        with pytest.raises(ValueError, match=f"{message} must be positive, got 0"):
            RunCheckpoint(**settings)


def test_no_checkpoints_where_the_trainer_is_told_so(golden_recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--trainer.max_steps=2", "--trainer.enable_checkpointing=false"]
    assert main(["fit", "-c", golden_recipe.name, *words]) == 0
    assert not checkpoints(tmp_path / "run")


def test_auto_never_starts_anew_over_checkpoints_that_it_cannot_read(golden_recipe, tmp_path, capfd):
    words = ["fit", "-c", str(golden_recipe), "--trainer.max_steps=3", "--checkpoint.every_steps=1"]
    words += [f"--trainer.default_root_dir={tmp_path}"]
    assert main(words) == 0
    damaged = {path: path.read_bytes()[:-5] for path in checkpoints(tmp_path)}
    for path, data in damaged.items():
        path.write_bytes(data)
    capfd.readouterr()
    assert main([*words, "--resume=auto"]) == 2
    said = capfd.readouterr()
    refused = f"{tmp_path}: none of its 2 checkpoints can be read: move them away to start a new run"
    assert said.err == f"plgolf: error: {refused}\n"
    assert said.out.count(": passed over\n") == 2
    assert {path: path.read_bytes() for path in checkpoints(tmp_path)} == damaged


class Unreadable(Callback):
    """A callback whose state a checkpoint could hold, but nothing safe could read."""

    def state_dict(self):
        return {"seen": {1, 2}}


def test_a_checkpoint_that_could_not_be_read_back_is_never_written(tmp_path):
    fit = trainer(
        tmp_path, Unreadable(), RunCheckpoint(every_steps=1), max_steps=2, enable_checkpointing=True
    )
    with pytest.raises(UserError, match="the state of the callback Unreadable cannot be saved: .*set"):
        fit.fit(golden_module(), golden_data())
    assert not list(tmp_path.iterdir())


def test_what_is_not_of_this_run_stays(tmp_path):
    def files():
        return {path.name for path in tmp_path.iterdir()}

    others = {"step-000001-best.ckpt", "step-x.ckpt", "step-000009.ckpt"}
    for name in others:
        (tmp_path / name).symlink_to("nowhere")
    fit = trainer(tmp_path, RunCheckpoint(every_steps=1, keep=2), max_steps=4, enable_checkpointing=True)
    fit.fit(golden_module(), golden_data())
    assert files() == others | {"step-000003.ckpt", "step-000004.ckpt"}
    again = trainer(tmp_path, RunCheckpoint(every_steps=1, keep=1), max_steps=2, enable_checkpointing=True)
    again.fit(golden_module(), golden_data())
    assert files() == others | {"step-000002.ckpt", "step-000003.ckpt", "step-000004.ckpt"}
    # One that goes on from there has written the earlier ones, too.
    on = trainer(tmp_path, RunCheckpoint(every_steps=1, keep=2), max_steps=5, enable_checkpointing=True)
    on.fit(golden_module(), golden_data(), ckpt_path=tmp_path / "step-000004.ckpt")
    assert files() == others | {"step-000004.ckpt", "step-000005.ckpt"}


def test_one_run_at_a_time_has_a_folder(tmp_path):
    lock = lock_folder(tmp_path)
    fit = trainer(tmp_path, RunCheckpoint(), max_steps=1, enable_checkpointing=True)
    with pytest.raises(UserError, match="another run is at work there"):
        fit.fit(golden_module(), golden_data())
    os.close(lock)
    for _ in range(2):
        trainer(tmp_path, RunCheckpoint(), max_steps=1, enable_checkpointing=True).fit(
            golden_module(), golden_data()
        )


@pytest.mark.parametrize("name", ["NAdam", "Adafactor", "SGD", "AdamW"])
def test_other_optimizers_go_on_too(name, tmp_path):
    ends = []
    for ckpt_path in (None, tmp_path / "step-000002.ckpt"):
        module = golden_module()
        module.optimizer = partial(getattr(torch.optim, name), lr=0.01)
        save = RunCheckpoint(every_steps=1, keep=9)
        fit = trainer(tmp_path, save, max_steps=4, enable_checkpointing=True)
        fit.fit(module, golden_data(), ckpt_path=ckpt_path)
        ends.append(module.gpt.state_dict())
    assert all(torch.equal(tensor, ends[1][key]) for key, tensor in ends[0].items())


def test_epochs_cannot_be_gone_on_with(tmp_path):
    epochs = {"enable_checkpointing": True, "limit_train_batches": 2}
    trainer(tmp_path, RunCheckpoint(), max_epochs=1, **epochs).fit(golden_module(), golden_data())
    again = trainer(tmp_path, RunCheckpoint(), max_epochs=2, **epochs)
    with pytest.raises(UserError, match="limit_train_batches must be left alone to resume from a checkpoint"):
        again.fit(golden_module(), golden_data(), ckpt_path=tmp_path / "step-000002.ckpt")


def test_a_module_can_be_fitted_again_and_seed_zero_is_a_seed(tmp_path):
    seed_everything(0)
    module = golden_module()
    fit = trainer(tmp_path / "a", RunCheckpoint(), max_steps=2, enable_checkpointing=True)
    fit.fit(module, golden_data())
    assert torch.load(tmp_path / "a/step-000002.ckpt", weights_only=True)["seed"] == 0
    seed_everything(5)
    on = trainer(tmp_path / "b", RunCheckpoint(), max_steps=3, enable_checkpointing=True)
    on.fit(golden_module(), golden_data(), ckpt_path=tmp_path / "a/step-000002.ckpt")
    assert torch.load(tmp_path / "b/step-000003.ckpt", weights_only=True)["seed"] == 0
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    seed_everything(7)
    trainer(tmp_path / "c", RunCheckpoint(), max_steps=1, enable_checkpointing=True).fit(
        module, golden_data()
    )
    assert torch.load(tmp_path / "c/step-000001.ckpt", weights_only=True)["seed"] == 7
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


class Fails(Callback):
    def on_train_batch_end(self, *_):
        raise KeyError("a bug")


def test_handlers_are_given_back_after_a_failure_too(tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(KeyError):
        trainer(tmp_path, Fails(), max_steps=1).fit(golden_module(), golden_data())
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_after_a_stop_by_signal_nothing_takes_the_handlers_again(tmp_path):
    before, module = signal.getsignal(signal.SIGTERM), golden_module()
    stop = LambdaCallback(on_train_batch_end=lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(StoppedBySignal):
        trainer(tmp_path, stop, max_steps=3).fit(module, golden_data())
    module.zero_grad()
    assert signal.getsignal(signal.SIGTERM) == before
