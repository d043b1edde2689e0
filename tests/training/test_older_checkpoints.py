"""Checkpoints of versions before a setting existed."""

import pytest
import torch
from golden_run import golden_data, golden_module, trainer

from plgolf.cli import main
from plgolf.errors import UserError
from plgolf.training import RunCheckpoint


def fit(folder, steps, **words):
    run = trainer(folder, RunCheckpoint(every_steps=1), max_steps=steps, enable_checkpointing=True)
    run.fit(golden_module(newton_schulz_dtype="float32"), golden_data(), **words)


def test_a_checkpoint_without_a_newer_field_resumes_with_the_fields_default(tmp_path):
    fit(tmp_path, 1)
    path = tmp_path / "step-000001.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["gpt_config"]["head"].pop("softcap") == 30.0
    torch.save(checkpoint, path)
    fit(tmp_path, 2, ckpt_path=str(path))
    assert (tmp_path / "step-000002.ckpt").is_file()


def test_a_checkpoint_with_an_unknown_field_is_refused_by_its_name(tmp_path):
    fit(tmp_path, 1)
    path = tmp_path / "step-000001.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["gpt_config"]["head"]["hardcap"] = 1.0
    torch.save(checkpoint, path)
    with pytest.raises(UserError, match="hardcap"):
        fit(tmp_path, 2, ckpt_path=str(path))


def test_a_checkpoint_from_before_streams_resumes_by_the_command_line(golden_recipe, tmp_path):
    words = ["-c", str(golden_recipe), f"--trainer.default_root_dir={tmp_path / 'run'}"]
    assert main(["fit", *words, "--trainer.max_steps=1"]) == 0
    path = tmp_path / "run" / "step-000001.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["ShardDataModule"].pop("stream")["kind"] == "spans"
    torch.save(checkpoint, path)
    assert main(["fit", *words, "--trainer.max_steps=2", "--resume=auto"]) == 0
