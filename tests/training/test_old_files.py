"""Files that earlier versions wrote are read, scored and resumed.

``tests/written_by`` has a folder for each format: a checkpoint after step 2 and an artifact after step 4.
"""

import json
import shutil
from pathlib import Path

import pytest
from golden_run import golden_data, trainer
from lightning.pytorch import Callback

from plgolf import load_artifact
from plgolf.container import Container
from plgolf.data.streams import StreamConfig
from plgolf.model import AttentionConfig, GPTConfig
from plgolf.model.depth import LanesConfig, RecurrenceConfig
from plgolf.model.parts import PartsConfig
from plgolf.model.parts.bigram_hash import BigramHashConfig
from plgolf.model.parts.exclusive import ExclusiveConfig
from plgolf.model.parts.output_gate import OutputGateConfig
from plgolf.model.parts.smear_gate import SmearGateConfig
from plgolf.model.parts.value_embedding import ValueEmbeddingConfig
from plgolf.optim import MuonAdam, MuonConfig, Warmdown
from plgolf.quantize.codec import Raw
from plgolf.quantize.plan import CodecConfig
from plgolf.quantize.rows import Rows
from plgolf.training import ArtifactExport, GolfModule, RunCheckpoint, ShardDataModule, WeightAverages

WRITTEN = Path(__file__).parent.parent / "written_by"
FOLDERS = {"0.1.0": "model.int8.ptz", "0.1.0-container": "model.plgolf"}
"""Of the code with automatic optimization and the reference's format alone; and of the first code with the
container, parts, recurrence, averages and packed documents. ``scores.json`` has what those runs printed."""
PARTS = PartsConfig(
    bigram_hash=BigramHashConfig(buckets=64, dim=8),
    smear_gate=SmearGateConfig(window=4, bos_id=1),
    value_embedding=ValueEmbeddingConfig(layers="last 1", dim=8),
    exclusive=ExclusiveConfig(),
    output_gate=OutputGateConfig(window=4),
)
ROWS = {name: CodecConfig(rows=Rows(bits=bits)) for name, bits in (("matrix", 6), ("embedding", 8))}


def module(folder: str) -> GolfModule:
    attention = AttentionConfig(num_heads=2, num_kv_heads=1)
    shape = {"vocab_size": 512, "dim": 16, "compute_dtype": "float32", "attention": attention}
    muon = {"newton_schulz_dtype": "float32"}
    if folder == "0.1.0":
        config = GPTConfig(num_layers=2, **shape)
    else:
        config = GPTConfig(
            num_layers=4,
            norm_scale="depth",
            skips="gated",
            recurrence=RecurrenceConfig(layers="1-2", times=2, starts=0.7),
            lanes=LanesConfig(layers="last 1"),
            parts=PARTS,
            **shape,
        )
        muon |= {"equalize": "rows", "polynomial": "polar_express", "weight_decay": 0.1}
    return GolfModule(config, lambda groups: MuonAdam(groups, matrix=MuonConfig(**muon)), Warmdown(4))


def data(folder: str) -> ShardDataModule:
    stream = StreamConfig(kind="spans" if folder == "0.1.0" else "packed")
    return golden_data(micro_batch_sequences=4, stream=stream)


def callbacks(folder: str) -> list[Callback]:
    if folder == "0.1.0":
        return [ArtifactExport(check_code=False), RunCheckpoint()]
    plan = {**ROWS, "scalar": CodecConfig(raw=Raw(dtype="float16"))}
    export = ArtifactExport(format=Container(plan, "lzma"), check_code=False)
    return [WeightAverages(ema=0.7, tail=0.5), export, RunCheckpoint()]


def scores(folder: str) -> dict[str, float]:
    values: dict[str, float] = json.loads((WRITTEN / folder / "scores.json").read_text())
    return values


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_checkpoint_resumes_to_the_same_end(folder, tmp_path):
    path = tmp_path / "step-000002.ckpt"
    shutil.copy(WRITTEN / folder / path.name, path)
    resumed, used, expected = module(folder), callbacks(folder), scores(folder)
    fit = trainer(tmp_path, *used, max_steps=4, enable_checkpointing=True)
    fit.fit(resumed, data(folder), ckpt_path=path)
    assert fit.global_step == 4
    result = resumed.run.result
    assert resumed.run.train_loss == pytest.approx(expected["train_loss"], rel=1e-5)
    assert resumed.run.gradient_norm == pytest.approx(expected["gradient_norm"], rel=1e-4)
    assert result["val_loss"] == pytest.approx(expected["val_loss"], rel=1e-5)
    assert result["roundtrip_val_loss"] == pytest.approx(expected["roundtrip_val_loss"], rel=1e-5)


@pytest.mark.parametrize("folder", FOLDERS)
def test_an_artifact_scores_as_it_did(folder, tmp_path):
    path = WRITTEN / folder / FOLDERS[folder]
    scored = trainer(tmp_path).validate(GolfModule.load_from_checkpoint(path), data(folder), verbose=False)
    assert scored[0]["val/loss"] == pytest.approx(scores(folder)["roundtrip_val_loss"], rel=1e-5)
    assert load_artifact(path, tokenizer=data(folder).tokenizer_path).seq_len == 64
