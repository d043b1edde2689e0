"""Datasets and vocabularies of other projects: GPT-2's, as llm.c and modded-nanogpt use it."""

import base64
import json
import math
from pathlib import Path

import numpy as np
import pytest
from corpus.texts import (
    END_OF_TEXT,
    GPT2_PATTERN,
    Lines,
    some_texts,
    tiktoken_settings,
    tokenizer,
    write_jsonl,
)

from plgolf import load_artifact
from plgolf.cli import main
from plgolf.corpus.verify import verify
from plgolf.data.manifest import read_manifest
from plgolf.data.shards import find_shards
from plgolf.errors import UserError

tiktoken = pytest.importorskip("tiktoken")
pytest.importorskip("tokenizers")

GPT2_EOT = 50256
RANKS = {
    base64.b64decode(a): int(b) for a, b in (r.split() for r in tiktoken_settings()["ranks"].splitlines())
}
LIBRARY = tiktoken.Encoding(
    "test", pat_str=GPT2_PATTERN, mergeable_ranks=RANKS, special_tokens={END_OF_TEXT: GPT2_EOT}
)
"""A small vocabulary with GPT-2's number of ids: those between 511 and 50256 are never used."""


def write_llm_c_shard(path, tokens):
    """Writes a shard as llm.c's ``write_datafile`` does."""
    header = np.zeros(256, dtype=np.int32)
    header[:3] = 20240520, 1, len(tokens)
    path.write_bytes(header.tobytes() + np.array(tokens, dtype=np.uint16).tobytes())


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """One stream of documents, each after an end-of-text, cut in its midst into val and train."""
    folder = tmp_path_factory.mktemp("llm.c")
    stream = [i for text in some_texts()[:12] for i in [GPT2_EOT, *LIBRARY.encode_ordinary(text[:3000])]]
    write_llm_c_shard(folder / "fineweb_val_000000.bin", stream[:2049])
    write_llm_c_shard(folder / "fineweb_train_000001.bin", stream[2049:8000])
    write_llm_c_shard(folder / "fineweb_train_000002.bin", stream[8000:])
    settings = tiktoken_settings()
    (folder / "gpt2.tiktoken").write_text(settings["ranks"])
    beside = {"pattern": GPT2_PATTERN, "special_tokens": {END_OF_TEXT: GPT2_EOT}}
    (folder / "gpt2.json").write_text(json.dumps(beside))
    return folder


def checks(root, **options) -> dict[str, tuple[bool | None, str]]:
    return {check.name: (check.passed, check.detail) for check in verify(root, console=Lines(), **options)}


def test_shards_of_llm_c_are_verified(shards, tmp_path):
    found = checks(shards, tokenizer=shards / "gpt2.tiktoken")
    assert [name for name, (passed, _) in found.items() if passed is False] == []
    assert found["tokenizer"][1] == "tiktoken, 50257 ids, lossless; not listed"
    assert "train starts inside a document" in found["documents"][1]
    decoded, table = found["scored bytes"][1].split(" by the table, ")
    assert decoded == table.split()[0]
    # With another vocabulary of the same size, and without the separator, it is not.
    other = {"pattern": GPT2_PATTERN, "special_tokens": {"<x>": GPT2_EOT}}
    ranks = dict(zip([*RANKS][::-1], RANKS.values(), strict=True))
    (tmp_path / "other.tiktoken").write_text(
        "\n".join(f"{base64.b64encode(piece).decode()} {rank}" for piece, rank in ranks.items())
    )
    (tmp_path / "other.json").write_text(json.dumps(other))
    assert checks(shards, tokenizer=tmp_path / "other.tiktoken")["re-encoding"][0] is False


def test_shards_without_any_separator_fail(shards, tmp_path):
    for name in ("fineweb_val_000000.bin", "fineweb_train_000001.bin"):
        write_llm_c_shard(tmp_path / name, [5] * 100)
    passed, detail = checks(tmp_path, tokenizer=shards / "gpt2.tiktoken")["documents"]
    assert passed is False
    assert detail.count("does not start with a begin-of-sequence") == 2


@pytest.mark.slow
def test_a_run_on_shards_of_llm_c_is_scored_in_bits_per_byte_and_generates(
    shards, tmp_path, golden_recipe_file, capsys
):
    words = [f"--data.root={shards}", f"--data.tokenizer={shards / 'gpt2.tiktoken'}"]
    words += ["--model.gpt.vocab_size=50257", "--model.gpt.dim=16"]
    words += ["--trainer.max_steps=2", "--export.tokenizer=inside"]
    words += [f"--trainer.default_root_dir={tmp_path / 'run'}"]
    assert main(["fit", "-c", str(golden_recipe_file), *words]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    val = np.fromfile(shards / "fineweb_val_000000.bin", dtype="<u2")[512:]
    targets = [int(i) for i in val[1 : result["val_tokens"] + 1] if i != GPT2_EOT]
    num_bytes = len(LIBRARY.decode_bytes(targets))
    assert result["val_bytes"] == num_bytes
    bits = result["val_loss"] * result["val_tokens"] / math.log(2)
    assert result["val_bpb"] == pytest.approx(bits / num_bytes, rel=1e-6)
    model = load_artifact(tmp_path / "run" / "model.int8.ptz")
    assert model.tokenizer.kind == "tiktoken" and model.tokenizer.bos_id == GPT2_EOT
    assert (tmp_path / "run" / "tokenizer.json").read_bytes() == model.tokenizer.to_bytes()
    assert model.score("Some text.\n").num_bytes == 11
    capsys.readouterr()
    arguments = [
        "--artifact",
        str(tmp_path / "run" / "model.int8.ptz"),
        "--max_tokens",
        "5",
        "--prompt",
        "The ",
    ]
    assert main(["generate", *arguments]) == 0
    assert capsys.readouterr().out.startswith("The ")


@pytest.mark.parametrize("kind", ["tiktoken", "tokenizers"])
def test_a_dataset_is_prepared_with_a_vocabulary_of_another_project(kind, tmp_path):
    source = write_jsonl(tmp_path / "a.jsonl", [*some_texts()[:40], f" with {END_OF_TEXT} inside"])
    (tmp_path / "vocabulary.json").write_bytes(tokenizer(kind).to_bytes())
    words = ["--root", str(tmp_path / "set"), "--tokenizer", str(tmp_path / "vocabulary.json")]
    assert main(["data", "prepare", str(source), "--val_documents", "5", *words]) == 0
    manifest = read_manifest(tmp_path / "set")
    assert manifest.tokenizer.kind == kind and manifest.tokenizer.lossless
    assert manifest.tokenizer.sha256 == tokenizer(kind).sha256 and manifest.byte_note == ""
    found = checks(tmp_path / "set")
    assert {passed for passed, _ in found.values()} == {True}
    assert found["re-encoding"][1] == "the same ids for 5 of 5 documents"


def test_a_vocabulary_too_large_for_shards_is_one_line(tmp_path, capsys):
    source = write_jsonl(tmp_path / "a.jsonl", ["text"])
    settings = {**tiktoken_settings(), "special_tokens": {END_OF_TEXT: 100_256}, "tokenizer_type": "tiktoken"}
    path = tmp_path / "cl100k.json"
    path.write_text(json.dumps(settings))
    assert (
        main(["data", "prepare", str(source), "--root", str(tmp_path / "s"), "--tokenizer", str(path)]) == 2
    )
    said = capsys.readouterr().err
    assert "must have at most 65536 ids for shards, got 100257" in said and said.count("\n") == 1


def test_a_shard_without_a_number_is_found(shards, tmp_path):
    """llm.c names its small datasets so: tiny_shakespeare_val.bin."""
    write_llm_c_shard(tmp_path / "tiny_shakespeare_val.bin", [GPT2_EOT, 5, 6])
    write_llm_c_shard(tmp_path / "tiny_shakespeare_train.bin", [GPT2_EOT, 7])
    assert [shard.num_tokens for shard in find_shards(tmp_path, "val")] == [3]
    assert [shard.num_tokens for shard in find_shards(tmp_path, "train")] == [2]


def test_wide_shards_of_llm_c_are_one_line(tmp_path):
    header = np.zeros(256, dtype=np.int32)
    header[:3] = 20240801, 7, 5
    path = tmp_path / "fineweb_val_000000.bin"
    path.write_bytes(header.tobytes() + np.arange(5, dtype=np.uint32).tobytes())
    with pytest.raises(UserError) as error:
        find_shards(tmp_path, "val")
    assert str(error.value) == f"{path}: has uint32 tokens: ids must be below 65536, in uint16"


def test_the_settings_of_gpt2_on_the_page_are_tiktokens():
    from tiktoken_ext.openai_public import ENDOFTEXT, r50k_pat_str

    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    settings = json.loads(page.split("```json\n")[1].split("```")[0])
    assert settings == {"pattern": r50k_pat_str, "special_tokens": {ENDOFTEXT: GPT2_EOT}, "bos": ENDOFTEXT}
