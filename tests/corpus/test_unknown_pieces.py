"""SentencePiece models without byte fallback: text outside the vocabulary becomes an unknown piece."""

import numpy as np
import pytest
from corpus.texts import Lines, some_texts, write_jsonl
from sentencepiece import SentencePieceTrainer

from plgolf.corpus.building import Output
from plgolf.corpus.documents import Reading
from plgolf.corpus.prepare import prepare
from plgolf.corpus.splitting import Holdout
from plgolf.corpus.tokenizer_training import TokenizerRecipe
from plgolf.corpus.verify import verify
from plgolf.data.manifest import read_manifest
from plgolf.data.shards import ShardReader, find_shards, write_shard
from plgolf.data.tokenizer import load_tokenizer

KNOWN = [f"The {i} text that is in the vocabulary, of some length, number {i * i}." for i in range(8)]
UNKNOWN = [f"Other text {i} has 日本 and more: żółć." for i in range(8)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    prefix = tmp_path_factory.mktemp("model") / "m"
    SentencePieceTrainer.train(
        sentence_iterator=iter([*KNOWN, *(t.encode("ascii", "ignore").decode() for t in some_texts())]),
        model_prefix=str(prefix),
        vocab_size=400,
        model_type="bpe",
        character_coverage=1.0,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        byte_fallback=False,
        minloglevel=2,
    )
    return prefix.with_suffix(".model")


def prepared(folder, model, texts, console):
    source = write_jsonl(folder / "a.jsonl", texts)
    prepare(
        [str(source)],
        folder / "set",
        reading=Reading(),
        holdout=Holdout(val_documents=8),
        recipe=TokenizerRecipe(tokenizer=str(model)),
        output=Output(name="x"),
        console=console,
    )
    return folder / "set"


def checks(root):
    return {check.name: (check.passed, check.detail) for check in verify(root, console=Lines())}


def test_they_are_counted_when_preparing_and_verified(tmp_path, model):
    console = Lines()
    texts = [*KNOWN[:4], *UNKNOWN[:4], *KNOWN[4:], *UNKNOWN[4:]]
    root = prepared(tmp_path, model, texts, console)
    made_by = load_tokenizer(model)
    unknown = {}
    for split in ("val", "train"):
        reader = ShardReader(find_shards(root, split))
        tokens = reader.read(0, reader.num_tokens)
        unknown[split] = (
            f"{int((tokens == made_by.processor.unk_id()).sum())} of {tokens.size} {split} tokens"
        )
    note = f"{unknown['train']} and {unknown['val']} are unknown pieces: the tokenizer has no byte fallback"
    assert note in read_manifest(root).byte_note
    assert any(line.startswith("note: ") and note in line for line in console.lines)
    found = checks(root)
    assert {name for name, (passed, _) in found.items() if passed is not True} == {"unknown pieces"}
    assert "the tokenizer has no byte fallback" in found["unknown pieces"][1]
    assert found["re-encoding"][1] == "the same ids for 4 of 4 documents without unknown pieces"


def test_a_dataset_without_them_says_so(tmp_path, model):
    texts = [*KNOWN, *(text + "!" for text in KNOWN)]
    root = prepared(tmp_path, model, texts, Lines())
    assert read_manifest(root).byte_note == ""
    found = checks(root)
    assert {passed for passed, _ in found.values()} == {True}
    assert found["unknown pieces"][1].startswith("0 in val, 0 in train")


def test_wrong_ids_are_still_found_beside_them(tmp_path, model):
    root = prepared(tmp_path, model, [*KNOWN[:4], *UNKNOWN[:4], *KNOWN[4:]], Lines())
    (shard,) = find_shards(root, "val")
    made_by = load_tokenizer(model)
    # A character at a time, where the tokenizer would merge them.
    ids = [i for text in KNOWN[:4] for i in [made_by.bos_id, *np.concatenate(made_by.encode_batch([*text]))]]
    unknown = made_by.encode_batch(UNKNOWN[:4])
    tokens = np.array([*ids, *(i for text in unknown for i in [made_by.bos_id, *text])], dtype=np.uint16)
    write_shard(shard.path, tokens)
    (root / "manifest.json").unlink()
    for side_car in (*root.glob("*_bytes_*"), *root.glob("*.bytes")):
        side_car.unlink()
    assert checks(root)["re-encoding"] == (False, "the same ids for 0 of 4 documents without unknown pieces")
