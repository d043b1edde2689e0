"""Manifests that are damaged, have absurd values, or name files of others."""

import json
import os
import random

import numpy as np
import pytest
from hostile.files import mutated
from hypothesis import given, settings
from hypothesis import strategies as st

from plgolf.data.manifest import (
    MANIFEST,
    MAX_BYTES,
    Manifest,
    Split,
    file_entry,
    find_tokenizer,
    hash_file,
    read_manifest,
    tokenizer_entry,
    write_manifest,
)
from plgolf.data.shards import write_shard
from plgolf.data.tokenizer import ByteTokenizer
from plgolf.errors import UserError


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    root = tmp_path_factory.mktemp("dataset")
    splits = {}
    for split in ("train", "val"):
        write_shard(root / f"d_{split}_000000.bin", np.arange(20, dtype=np.uint16))
        entry = file_entry(root / f"d_{split}_000000.bin", 20)
        splits[split] = Split(2, 20, 18, 18, [entry], [])
    tokenizer = tokenizer_entry(ByteTokenizer(), ByteTokenizer.file_name)
    write_manifest(Manifest("d", tokenizer, splits, [{"path": "a.txt"}], {"seed": 1}), root)
    return json.loads((root / MANIFEST).read_text())


def replaced(content, path, value):
    """Copies nested dicts and lists with one leaf replaced."""
    if not path:
        return value
    key, *rest = path
    copy = list(content) if isinstance(content, list) else dict(content)
    copy[key] = replaced(copy.get(key) if isinstance(copy, dict) else copy[key], rest, value)
    return copy


FILE = ("splits", "val", "shards", 0)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ((), [], "is not a dataset manifest"),
        (("format",), 2, "format must be 1"),
        (("format",), True, "format must be of type int, got True"),
        (("extra",), 1, "extra is not a setting of Manifest"),
        (("splits",), {}, "splits must be train and val, got none"),
        (("splits", "test"), None, "splits.test must be a mapping, got None"),
        (("splits", "val", "tokens"), -1, "splits.val must have counts of at least 0"),
        (("splits", "val", "tokens"), 10**30, "splits.val.tokens must fit 64 bits"),
        (("splits", "val", "tokens"), float("nan"), "splits.val.tokens must be of type int, got nan"),
        (("splits", "val", "shards"), {}, "splits.val.shards must be of type list, got {}"),
        ((*FILE, "bytes"), -5, "must be at least 0"),
        ((*FILE, "file"), "../../etc/passwd", "file must be a name in its folder, got '../../etc/passwd'"),
        ((*FILE, "file"), "/etc/passwd", "file must be a name in its folder, got '/etc/passwd'"),
        ((*FILE, "file"), "below/a.bin", "file must be a name in its folder"),
        ((*FILE, "file"), "..", "file must be a name in its folder"),
        ((*FILE, "file"), "", "file must be a name in its folder"),
        ((*FILE, "file"), "a\0b", "file must be a name in its folder"),
        (("tokenizer", "file"), "/etc/passwd", "tokenizer.file must be in its folder or in one beside"),
        (
            ("tokenizer", "file"),
            "../../../etc/passwd",
            "tokenizer.file must be in its folder or in one beside",
        ),
        (("tokenizer", "file"), "a/../../../../b", "tokenizer.file must be in its folder or in one beside"),
        (("tokenizer", "file"), "../..", "tokenizer.file must be in its folder or in one beside"),
        (("tokenizer", "file"), "a\0.model", "tokenizer.file must be in its folder or in one beside"),
        (("tokenizer", "vocab_size"), 2**40, "tokenizer.vocab_size must be from 1 to 65536"),
        (("tokenizer", "lossless"), 1, "tokenizer.lossless must be of type bool, got 1"),
        (("name",), ["x"] * 10**5, "name must be of type str, got ['x', 'x', 'x', 'x', 'x', 'x', ...]"),
    ],
)
def test_absurd_manifests_are_refused_in_one_line(tmp_path, content, path, value, message):
    (tmp_path / MANIFEST).write_text(json.dumps(replaced(content, path, value)))
    with pytest.raises(UserError) as error:
        read_manifest(tmp_path)
    assert message in str(error.value) and str(tmp_path / MANIFEST) in str(error.value)
    assert len(str(error.value)) < 400 + len(str(tmp_path))


def test_the_shared_tokenizer_of_downloads_is_found(tmp_path, content):
    root = tmp_path / "datasets" / "d"
    (tmp_path / "tokenizers").mkdir()
    (tmp_path / "tokenizers" / "t.json").write_bytes(ByteTokenizer().to_bytes())
    root.mkdir(parents=True)
    shared = replaced(content, ("tokenizer", "file"), "../../tokenizers/t.json")
    (root / MANIFEST).write_text(json.dumps(shared))
    assert find_tokenizer(root, read_manifest(root)).vocab_size == 260


def test_other_files_than_manifests_are_refused_in_one_line(tmp_path):
    path = tmp_path / MANIFEST
    assert read_manifest(tmp_path) is None
    for data in (b"", b"{", b"\xff", b"[" * 10**6, b"9" * 10**5, b'{"format": NaN}'):
        path.write_bytes(data)
        with pytest.raises(UserError, match="is not valid JSON|is not a dataset manifest"):
            read_manifest(tmp_path)
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(UserError, match="must have at most 67108864 bytes, got 67108865"):
        read_manifest(tmp_path)
    path.unlink()
    os.mkfifo(path)
    for read in (lambda: read_manifest(tmp_path), lambda: hash_file(path)):
        with pytest.raises(UserError, match="it must be a regular file"):
            read()


@settings(max_examples=150)
@given(
    seed=st.integers(0, 2**32),
    value=st.sampled_from([None, -1, 0, 10**30, 1e400, True, "x", "../x", "", [], {}, [[]], {"file": 1}]),
)
def test_manifests_with_a_leaf_replaced_are_read_or_refused(tmp_path_factory, content, seed, value):
    at, path, node = random.Random(seed), [], content
    while isinstance(node, dict | list) and node and (not path or at.random() < 0.8):
        path.append(at.choice(list(node)) if isinstance(node, dict) else at.randrange(len(node)))
        node = node[path[-1]]
    check(tmp_path_factory, json.dumps(replaced(content, path, value)).encode())


@settings(max_examples=150)
@given(seed=st.integers(0, 2**32))
def test_mutated_manifests_are_read_or_refused(tmp_path_factory, content, seed):
    check(tmp_path_factory, mutated(json.dumps(content).encode(), seed))


def check(tmp_path_factory, data: bytes) -> None:
    root = tmp_path_factory.getbasetemp() / "mutated"
    root.mkdir(exist_ok=True)
    (root / MANIFEST).write_bytes(data)
    try:
        manifest = read_manifest(root)
    except UserError as error:
        message = str(error)
    else:
        assert all("/" not in entry.file for entry in manifest.files)
        return
    assert message.startswith(str(root)) and "\n" not in message
