"""Tokenizer files that are damaged: SentencePiece's parser is C++, so they are read in another process."""

import json
import os

import pytest
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
        ("a.model", b"", "is no SentencePiece model"),
        ("a.model", b"\xff" * 1000, "is no SentencePiece model"),
        ("a.model", TOKENIZER.read_bytes()[:-1], "is no SentencePiece model"),
        ("a.model", TOKENIZER.read_bytes() + b"\7", "is no SentencePiece model"),
        ("a.json", b"[" * 10**6, "is no JSON"),
        ("a.json", b"\xff", "is no JSON"),
        ("a.json", b"9" * 5000, "is no JSON"),
        ("a.json", b"{}", "is not the description of the 260-id byte tokenizer"),
        ("a.json", json.dumps({**BYTES, "vocab_size": 10**30}).encode(), "is not the description"),
    ],
)
def test_damaged_tokenizers_cost_one_line(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError) as error:
        load_tokenizer(tmp_path / name)
    assert str(error.value).startswith(f"{tmp_path / name}: {message}")


def test_what_is_no_tokenizer_is_neither_waited_for_nor_read(tmp_path):
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


def test_pieces_that_are_no_text_are_refused():
    """Such a model loads, and used to fail where the bytes of its pieces were counted."""
    model = ModelProto.FromString(TOKENIZER.read_bytes())
    piece = next(p.piece for p in model.pieces if len(p.piece) == 3 and p.piece.isascii())
    spoilt = model.SerializeToString().replace(b"\n\3" + piece.encode(), b"\n\3a\xff\xfe", 1)
    with pytest.raises(UserError, match="is no SentencePiece model"):
        SentencePieceTokenizer(spoilt)


def test_mutated_models_never_end_the_process():
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
