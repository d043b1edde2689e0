"""CaseOps: the transform, its bytes and its datasets, beside the numbers of the record 2026-04-27."""

import json
import re

import numpy as np
import pytest
from corpus.texts import TEXT, Lines, some_texts, write_jsonl
from golden_data import GOLDEN
from hypothesis import given
from hypothesis import strategies as st

from plgolf.cli import main
from plgolf.corpus.building import Output
from plgolf.corpus.documents import Reading
from plgolf.corpus.prepare import prepare
from plgolf.corpus.splitting import Holdout
from plgolf.corpus.tokenizer_training import TokenizerRecipe, train_tokenizer
from plgolf.corpus.verify import verify
from plgolf.data.manifest import read_manifest
from plgolf.data.shards import ShardReader, find_shards, find_side_cars
from plgolf.data.tokenizer import load_tokenizer
from plgolf.data.tokenizer.case_ops import OPERATORS, Restorer, original_bytes, restored, transformed
from plgolf.data.tokenizer.streaming import TextStream
from plgolf.errors import UserError
from plgolf.generation.language_model import load_artifact

FOLDER = GOLDEN / "records" / "2026-04-27" / "caseops"
[MODEL] = FOLDER.glob("*.model")
DOCUMENTS = json.loads((FOLDER / "documents.json").read_text())
CAPITALS = TEXT | st.text(f"aBc D-é1{OPERATORS}", max_size=30)
"""Any text, and many capitals and operators."""


def content(name):
    return json.loads((FOLDER / "transform.json").read_text())[name]


def trained(preset):
    """A tokenizer of few pieces with CaseOps."""
    return train_tokenizer(some_texts()[:8], TokenizerRecipe(preset=preset, vocab_size=400))


@pytest.fixture(scope="module", params=["caseops", "caseops_challenge"])
def small(request):
    return trained(request.param)


def test_texts_become_those_of_the_record_and_come_back():
    for case in content("strings"):
        assert transformed(case["text"]) == case["encoded"]
        assert restored(case["encoded"]) == case["text"]


def test_what_the_record_refuses_to_decode_is_refused():
    for case in content("decode"):
        if case["ok"]:
            assert restored(case["encoded"]) == case["decoded"]
        else:
            with pytest.raises(UserError, match="^text must "):
                restored(case["encoded"])


@given(CAPITALS)
def test_any_text_comes_back_and_every_byte_is_counted_once(text):
    changed = transformed(text)
    assert not re.search("[A-Z]", changed) and restored(changed) == text
    counts = original_bytes(changed)
    assert counts.size == len(changed.encode()) and counts.sum() == len(text.encode())


@given(CAPITALS, st.data())
def test_a_text_in_parts_is_restored_as_the_whole(text, data):
    changed = transformed(text)
    cut = data.draw(st.integers(0, len(changed)))
    restore = Restorer(strict=True)
    parts = [restore(part) for part in (changed[:cut], changed[cut:]) if part]
    restore.finish()
    assert "".join(parts) == text


@given(st.text(f"aB {OPERATORS}", max_size=20))
def test_a_model_may_write_operators_anywhere(text):
    assert "B" not in text or "B" in Restorer()(text).upper()


def test_ids_are_those_of_the_record():
    tokenizer = load_tokenizer(MODEL)
    assert tokenizer.transform == "caseops" and not tokenizer.lossless
    for document in DOCUMENTS:
        assert tokenizer.encode(document["text"]).tolist() == document["ids"]


def test_bytes_are_those_of_the_record_except_that_edge_blanks_count():
    tokenizer, whole = load_tokenizer(MODEL), 0
    for document in DOCUMENTS:
        found = tokenizer.raw_bytes(document["text"], np.array(document["ids"]))
        assert found.sum() == document["raw_utf8_bytes"]
        if document["sidecar_sum"] == document["raw_utf8_bytes"]:
            assert found.tolist() == document["bytes"]
            whole += 1
    assert whole == 14


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("caseops") / "fineweb"
    texts = [json.loads(line)["text"] for line in (FOLDER / "docs.jsonl").read_text().splitlines()]
    inputs = write_jsonl(root.parent / "docs.jsonl", texts)
    make([inputs], root, recipe=TokenizerRecipe(tokenizer=str(MODEL)), holdout=Holdout(val_documents=12))
    return root


def make(inputs, root, *, recipe, holdout):
    settings = {"reading": Reading(), "recipe": recipe, "holdout": holdout, "console": Lines()}
    return prepare([str(path) for path in inputs], root, output=Output(workers=1), **settings)


def tokens(root, split):
    reader = ShardReader(find_shards(root, split))
    return reader.read(0, reader.num_tokens)


def counts(root):
    reader = ShardReader(find_side_cars(root, "val", find_shards(root, "val")))
    return reader.read(0, reader.num_tokens)


def test_shards_are_those_of_the_record(dataset):
    """The record's folder has side-cars whose name other programs read as tokens; here they are not."""
    for split in ("train", "val"):
        np.testing.assert_array_equal(tokens(dataset, split), tokens(FOLDER, split))
    lost = sum(d["raw_utf8_bytes"] - d["sidecar_sum"] for d in DOCUMENTS[:12])
    assert counts(dataset).sum() - counts(FOLDER).sum() == lost > 0
    assert [path.name for path in dataset.glob("*_val_*.bin")] == ["fineweb_val_000000.bin"]


def test_a_dataset_says_that_it_has_case_ops_and_is_verified(dataset):
    assert read_manifest(dataset).tokenizer.transform == "caseops"
    found = {check.name: check for check in verify(dataset, console=Lines())}
    assert all(check.passed is not False for check in found.values()), found
    assert found["tokenizer"].detail.startswith("caseops and sentencepiece")


def test_a_trained_tokenizer_decodes_any_text_and_counts_its_bytes(small):
    @given(CAPITALS)
    def check(text):
        ids = small.encode(text)
        if small.lossless:
            assert small.normalize(text) == small.decode(ids) == text
        if ids.size:
            assert small.raw_bytes(text, ids).sum() == len(text.encode())
        stream = TextStream(small)
        assert "".join(map(stream.push, ids.tolist())) + stream.flush() == small.decode(ids)

    check()


@pytest.mark.slow
def test_a_run_is_scored_per_byte_of_the_original_text_and_generates(golden_recipe_file, tmp_path, capsys):
    root, run = tmp_path / "data", tmp_path / "run"
    inputs = write_jsonl(tmp_path / "docs.jsonl", some_texts()[:12])
    make(
        [inputs],
        root,
        recipe=TokenizerRecipe(preset="caseops", vocab_size=512),
        holdout=Holdout(val_documents=4),
    )
    words = [f"--data.root={root}", f"--data.tokenizer={next(root.glob('*.model'))}"]
    words += ["--export.tokenizer=inside", "--trainer.max_steps=2", f"--trainer.default_root_dir={run}"]
    assert main(["fit", "-c", str(golden_recipe_file), *words]) == 0
    result = json.loads((run / "result.json").read_text())
    assert result["val_bytes"] == counts(root)[1 : result["val_tokens"] + 1].sum()
    model = load_artifact(run / "model.int8.ptz")
    assert model.tokenizer.transform == "caseops"
    assert model.score("The NASA and iPhone.\n").num_bytes == len("The NASA and iPhone.\n")
    capsys.readouterr()
    path = str(run / "model.int8.ptz")
    assert main(["generate", "--artifact", path, "--prompt", "The NASA", "--max_tokens", "9"]) == 0
    assert capsys.readouterr().out.startswith("The NASA")
