"""Damaged tokenizer files. The parsers are C++ and Rust, so mutated files are read in another process."""

import json
import os

import pytest
from corpus.texts import byte_level_json, tiktoken_settings, tokenizer
from golden_data import TOKENIZER
from hostile.files import run_bounded
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from plgolf.data.tokenizer import ByteTokenizer, SentencePieceTokenizer, load_tokenizer
from plgolf.data.tokenizer.files import MAX_FILE_BYTES
from plgolf.errors import UserError

BYTES = json.loads(ByteTokenizer().to_bytes())


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.model", b"", "must be a SentencePiece model"),
        ("a.model", b"\xff" * 1000, "must be a SentencePiece model"),
        ("a.model", TOKENIZER.read_bytes()[:-1], "must be a SentencePiece model"),
        ("a.model", TOKENIZER.read_bytes() + b"\7", "must be a SentencePiece model"),
        ("a.json", b"[" * 10**6, "must be JSON"),
        ("a.json", b"\xff", "must be JSON"),
        ("a.json", b"9" * 5000, "must be JSON"),
        ("a.json", b"{}", "must be a tokenizer.json of Hugging Face"),
        (
            "a.json",
            json.dumps({**BYTES, "vocab_size": 10**30}).encode(),
            "must be a tokenizer.json of Hugging Face",
        ),
    ],
)
def test_damaged_tokenizers_are_one_line(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError) as error:
        load_tokenizer(tmp_path / name)
    assert str(error.value).startswith(f"{tmp_path / name}: {message}")


def test_pipes_folders_devices_and_large_files_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.model")
    (tmp_path / "folder.model").mkdir()
    (tmp_path / "device.model").symlink_to("/dev/zero")
    for name in ("pipe.model", "folder.model", "device.model", "none.model"):
        with pytest.raises(UserError, match="no tokenizer there"):
            load_tokenizer(tmp_path / name)
    with (tmp_path / "large.model").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(UserError, match="must have at most 16777216 bytes, got 16777217"):
        load_tokenizer(tmp_path / "large.model")


def test_pieces_that_are_not_utf8_are_refused():
    """SentencePiece loads such a model, and fails when the bytes of its pieces are counted."""
    model = ModelProto.FromString(TOKENIZER.read_bytes())
    piece = next(p.piece for p in model.pieces if len(p.piece) == 3 and p.piece.isascii())
    damaged = model.SerializeToString().replace(b"\n\3" + piece.encode(), b"\n\3a\xff\xfe", 1)
    with pytest.raises(UserError, match="must be a SentencePiece model"):
        SentencePieceTokenizer(damaged)


def test_mutated_sentencepiece_models_never_end_the_process():
    code = """
from hostile.files import mutated
from plgolf.data.tokenizer import SentencePieceTokenizer
from plgolf.errors import UserError
from sentencepiece.sentencepiece_model_pb2 import ModelProto
whole = open(sys.argv[1], "rb").read()
model = ModelProto.FromString(whole)
model.normalizer_spec.precompiled_charsmap = b""
small = model.SerializeToString()
limit()
loaded = 0
for seed in range(300):
    for data in (whole, small):
        try:
            tokenizer = SentencePieceTokenizer(mutated(data, seed))
        except UserError:
            continue
        loaded += 1
        tokenizer.byte_counts
        for ids in tokenizer.encode_batch(["Hello  world", "\u2581", "", "日本 é"]):
            tokenizer.decode(ids.tolist())
print(loaded > 10)
"""
    assert run_bounded(code, TOKENIZER, mebibytes=500) == "True\n"


def test_malformed_vocabularies_are_one_line(tmp_path):
    pytest.importorskip("tiktoken")
    path = tmp_path / "tokenizer.json"
    good = {"tokenizer_type": "tiktoken", **tiktoken_settings()}
    last = good["ranks"].splitlines()[-1]
    for change, message in [
        ({"pattern": "("}, "pattern must be a regular expression"),
        ({"special_tokens": {}}, "bos must name a special token, one of none"),
        ({"special_tokens": {"<a>": 600, "<b>": 601}}, "bos must name a special token, one of <a>, <b>"),
        ({"special_tokens": {"<a>": 5}}, "its ids must differ"),
        ({"special_tokens": {"<a>": 2**30}}, "its ids must differ and be from 0 to 1048575"),
        ({"special_tokens": {"<a>": "5"}}, "special_tokens.<a> must be of type int"),
        ({"bos": "<x>"}, "bos must name a special token, one of <|endoftext|>, got '<x>'"),
        ({"ranks": "IQ== 0"}, "its ranks must hold all 256 bytes, got none for 0"),
        ({"ranks": good["ranks"] + "\n" + last}, "each line of its ranks must be a new token"),
        ({"ranks": good["ranks"] + "\n= 9"}, "each line of its ranks must be a new token"),
        ({"ranks": 3}, "ranks must be of type str"),
        ({"merges": []}, "merges"),
    ]:
        path.write_text(json.dumps({**good, **change}))
        assert message in refusal(path)
    path.write_text(json.dumps({**good, "pattern": "[a-z]+"}))
    with pytest.raises(UserError, match="pattern must match every character of a text, got 'a b'"):
        load_tokenizer(path).encode("a b")


def test_tokenizer_json_whose_bytes_are_unknown_is_one_line(tmp_path):
    pytest.importorskip("tokenizers")
    path = tmp_path / "tokenizer.json"
    good = json.loads(byte_level_json())
    model = good["model"]
    few = {text: index for text, index in model["vocab"].items() if text != "!"}
    for change, message in [
        ({"model": 3}, "must be byte-level BPE"),
        ({"model": {**model, "type": "WordPiece"}}, "must be byte-level BPE"),
        ({"decoder": {"type": "Metaspace"}}, "of a SentencePiece model, use the .model file"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "its pre_tokenizer must contain ByteLevel"),
        ({"pre_tokenizer": [1]}, "its pre_tokenizer must contain ByteLevel"),
        ({"model": {**model, "end_of_word_suffix": "</w>"}}, "its model.end_of_word_suffix must be empty"),
        ({"model": {**model, "dropout": 0.5}}, "its model.dropout must be empty, got 0.5"),
        ({"model": {**model, "vocab": few, "merges": []}}, "its vocabulary must hold all 256 bytes"),
        ({"model": {**model, "vocab": {**model["vocab"], "日": 511}}}, "must be byte-level, got '日'"),
        ({"model": {**model, "vocab": {**model["vocab"], "a!": 2**31}}}, "its ids must be below 1048576"),
        ({"model": {**model, "vocab": "x"}}, "must be a tokenizer.json"),
        ({"added_tokens": []}, "must have a special token before each document"),
    ]:
        path.write_text(json.dumps({**good, **change}))
        assert message in refusal(path)


@pytest.mark.parametrize("kind", ["tiktoken", "tokenizers"])
def test_mutated_vocabularies_never_end_the_process(tmp_path, kind):
    pytest.importorskip(kind)
    path = tmp_path / "tokenizer.json"
    path.write_bytes(tokenizer(kind).to_bytes())
    code = """
import json, random
from plgolf.data.tokenizer import tokenizer_of
from plgolf.errors import UserError
whole = open(sys.argv[1]).read()
tokenizer_of(whole.encode())
limit()
loaded = 0
for seed in range(400):
    at, content = random.Random(seed), json.loads(whole)
    for _ in range(at.randrange(1, 3)):
        node = content  # One value somewhere below is replaced, removed or repeated.
        while True:
            key = at.choice(list(node) if isinstance(node, dict) else range(len(node)))
            inner = node[key]
            if not isinstance(inner, (dict, list)) or not inner or at.random() < 0.1:
                break
            node = inner
        value = at.choice([None, 0, -1, 2**63, 1e300, "", "(", "\\ud800", "a" * 1000, [], {}, [[]], inner])
        if isinstance(value, str) and isinstance(inner, str) and at.random() < 0.8:
            cut = at.randrange(len(inner) + 1)
            value = inner[:cut] + at.choice([value, " ", "\\n", "9"]) + inner[cut + at.randrange(3):]
        node[key] = value
    try:
        tokenizer = tokenizer_of(json.dumps(content).encode())
        tokenizer.byte_counts
        for ids in tokenizer.encode_batch(["Hello  world", "<|endoftext|>", "", "日本 é"]):
            tokenizer.decode(ids.tolist())
        loaded += 1
    except UserError:
        continue
print(loaded > 10)
"""
    assert run_bounded(code, path, mebibytes=500) == "True\n"


def refusal(path) -> str:
    with pytest.raises(UserError) as error:
        load_tokenizer(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ") and "\n" not in message and len(message) < 500
    return message
