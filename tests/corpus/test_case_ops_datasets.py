"""Datasets whose tokenizer has CaseOps: written, checked, trained on and scored."""

import json
import math
import shutil

import numpy as np
import pytest
from corpus.test_prepare import make, texts, tokens
from corpus.texts import Lines, some_texts, write_jsonl
from golden_data import GOLDEN
from lively import lively

from plgolf import GPTConfig, LanguageModel
from plgolf.corpus.building import Output
from plgolf.corpus.inspection import describe, inspect
from plgolf.corpus.splitting import Holdout
from plgolf.corpus.tokenizer_training import TokenizerRecipe
from plgolf.corpus.verify import verify
from plgolf.data.manifest import read_manifest
from plgolf.data.shards import ShardReader, find_shards, find_side_cars, open_shard
from plgolf.errors import UserError
from plgolf.evaluate.evaluator import Plain, evaluate
from plgolf.evaluate.targets import split_targets
from plgolf.training import ShardDataModule

RECORD = GOLDEN / "records" / "2026-04-27" / "caseops"
MODEL = RECORD / "fineweb_8192_bpe_lossless_caps_caseops_v1_reserved.model"
VAL_BYTES = "fineweb_val_bytes_000000.bin"


def counts(root):
    return tokens(root, "val", lambda shards: ShardReader(find_side_cars(root, "val", shards)))


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """The record's documents, prepared here."""
    root = tmp_path_factory.mktemp("record") / "set"
    recipe = TokenizerRecipe(tokenizer=str(MODEL))
    options = {"holdout": Holdout(val_documents=12), "recipe": recipe, "output": Output(name="fineweb")}
    _, lines = make([RECORD / "docs.jsonl"], root, **options)
    assert make([RECORD / "docs.jsonl"], root, **options)[1] == [
        f"{root}: exists already, made from the same files with the same options"
    ]
    return root, lines


def test_side_cars_are_the_records_and_count_the_edges_of_documents_too(record):
    root, _ = record
    theirs = ShardReader([open_shard(RECORD / VAL_BYTES)])
    theirs = theirs.read(0, theirs.num_tokens).astype(int)
    assert (counts(RECORD) == theirs).all()  # Under the name that the record gives it.
    documents = [json.loads(line)["text"] for line in (RECORD / "docs.jsonl").read_text().splitlines()][:12]
    ours = counts(root).astype(int)
    assert ours.sum() == sum(len(text.encode()) for text in documents)
    more = np.flatnonzero(ours - theirs)
    starts = np.flatnonzero(tokens(root, "val") == 1)
    assert set(more) <= {*(starts + 1), *(starts[1:] - 1)} and more.size and (ours >= theirs).all()


def test_a_dataset_of_the_record_passes_and_says_what_it_is(record):
    root, _ = record
    checks = verify(root, console=Lines())
    assert all(check.passed for check in checks), checks
    assert any("caseops and sentencepiece, 8192 ids" in check.detail for check in checks)
    entry = json.loads((root / "manifest.json").read_text())["tokenizer"]
    assert entry["transform"] == read_manifest(root).tokenizer.transform == "caseops"
    shown = "\n".join(describe(inspect(root)))
    assert "tokenizer      caseops and sentencepiece" in shown and "| The harbour at Port Ellen" in shown
    assert not [c for c in verify(RECORD, tokenizer=MODEL, console=Lines()) if c.passed is False]


@pytest.fixture(scope="module")
def lossless(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lossless")
    documents = ["The \ue001 of NASA\ue004\ue002", " Émile  iPhone \ue003X ", *some_texts()]
    source = write_jsonl(folder / "docs.jsonl", documents)
    recipe = TokenizerRecipe(preset="caseops", vocab_size=512)
    make([source], folder / "set", holdout=Holdout(val_documents=4), recipe=recipe)
    return folder / "set", documents


def test_a_trained_preset_is_lossless_and_passes_every_check(lossless):
    root, documents = lossless
    assert texts(root, "val") == documents[:4] and texts(root, "train") == documents[4:]
    assert all(check.passed for check in verify(root, console=Lines()))
    split = read_manifest(root).splits["val"]
    size = sum(len(text.encode()) for text in documents[:4])
    assert split.raw_bytes == split.scored_bytes == counts(root).sum() == size
    assert read_manifest(root).byte_note == ""


def data(root, **settings) -> ShardDataModule:
    sizes = {"vocab_size": 512, "seq_len": 1, "global_batch_tokens": 8, "micro_batch_sequences": 8}
    found = ShardDataModule(str(root), val_batch_sequences=256, **{**sizes, **settings})
    found.check(training=True)
    return found


@pytest.mark.parametrize("kind", ["record", "lossless"])
def test_validation_counts_the_bytes_of_the_original_text(kind, request):
    """All of them, in windows that leave no target out, and the same number for the texts themselves."""
    root = request.getfixturevalue(kind)[0]
    size = read_manifest(root).tokenizer.vocab_size
    found = data(root, vocab_size=size, seq_len=1)
    gpt = lively(GPTConfig(vocab_size=size, dim=32, num_layers=1, compute_dtype="float32"))
    score = evaluate(Plain(found.val_dataloader()), gpt, split_targets(found.val_split, found.tokenizer))
    assert score.num_bytes == score.num_raw_bytes == read_manifest(root).splits["val"].raw_bytes
    if kind == "lossless":
        again = LanguageModel(gpt, found.tokenizer, 1).score(texts(root, "val"))
        assert math.isclose(again.bpb, score.bpb, rel_tol=1e-6) and again.num_bytes == score.num_bytes


def test_a_split_without_side_cars_is_refused(lossless, tmp_path):
    root = shutil.copytree(lossless[0], tmp_path / "set")
    next(root.glob("*.bytes")).unlink()
    with pytest.raises(UserError, match="set: must have byte side-cars"):
        data(root)


def test_a_dataset_from_before_the_transform_is_refused(lossless, tmp_path):
    root = shutil.copytree(lossless[0], tmp_path / "set")
    manifest = json.loads((root / "manifest.json").read_text())
    del manifest["tokenizer"]["transform"]
    (root / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="its sha256 or transform differs"):
        data(root)
    assert find_shards(root, "val")


@pytest.mark.parametrize("other", [{"tokenizer": str(MODEL)}, {"model_type": "byte"}])
def test_a_tokenizer_that_is_not_trained_cannot_be_given_the_operators(other):
    with pytest.raises(
        UserError, match=r"preset must be left out with .*to reserve .* one that does has CaseOps"
    ):
        TokenizerRecipe(preset="caseops", **other)
