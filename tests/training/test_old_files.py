"""Files that earlier versions wrote are read, scored and resumed."""

import shutil
from pathlib import Path

import pytest
from golden_run import golden_data, trainer

from plgolf import load_artifact
from plgolf.model import AttentionConfig, GPTConfig
from plgolf.optim import MuonAdam, MuonConfig, Warmdown
from plgolf.training import ArtifactExport, GolfModule, RunCheckpoint

WRITTEN = Path(__file__).parent.parent / "written_by" / "0.1.0"
"""Checkpoint after step 2 and artifact after step 4, of the code that had automatic optimization."""
LOSS, NORM, VAL_LOSS, ROUNDTRIP = 6.1066734790802, 0.5855526387755458, 6.062608393618748, 6.062604054542525
"""Loss and gradient norm of step 4 of that run, its validation, and the score of its artifact."""


def module() -> GolfModule:
    attention = AttentionConfig(num_heads=2, num_kv_heads=1)
    config = GPTConfig(vocab_size=512, dim=16, num_layers=2, compute_dtype="float32", attention=attention)
    return GolfModule(
        config, lambda groups: MuonAdam(groups, matrix=MuonConfig(newton_schulz_dtype="float32")), Warmdown(4)
    )


def test_a_checkpoint_resumes_to_the_same_end(tmp_path):
    path = tmp_path / "step-000002.ckpt"
    shutil.copy(WRITTEN / path.name, path)
    resumed, export = module(), ArtifactExport(check_code=False)
    fit = trainer(tmp_path, export, RunCheckpoint(), max_steps=4, enable_checkpointing=True)
    fit.fit(resumed, golden_data(micro_batch_sequences=4), ckpt_path=path)
    assert fit.global_step == 4
    assert resumed.run.train_loss == pytest.approx(LOSS, rel=1e-5)
    assert resumed.run.gradient_norm == pytest.approx(NORM, rel=1e-4)
    assert export.result["val_loss"] == pytest.approx(VAL_LOSS, rel=1e-5)
    assert export.result["roundtrip_val_loss"] == pytest.approx(ROUNDTRIP, rel=1e-5)


def test_an_artifact_scores_as_it_did(tmp_path):
    scored = trainer(tmp_path).validate(
        GolfModule.load_from_checkpoint(WRITTEN / "model.int8.ptz"), golden_data(), verbose=False
    )
    assert scored[0]["val/loss"] == pytest.approx(ROUNDTRIP, rel=1e-5)
    assert load_artifact(WRITTEN / "model.int8.ptz", tokenizer=golden_data().tokenizer_path).seq_len == 64
