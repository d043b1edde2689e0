"""CaseOps in front of tokenizers of several kinds, in scores and in generation."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from corpus.texts import byte_level_json, some_texts, tokenizer
from golden_data import GOLDEN, TOKENIZER
from hypothesis import given, settings
from hypothesis import strategies as st
from lively import lively
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from plgolf import GPTConfig, LanguageModel
from plgolf.artifact import save_artifact
from plgolf.data.tokenizer import TextStream, load_tokenizer, tokenizer_of
from plgolf.data.tokenizer.case_ops import OPERATORS, transformed
from plgolf.data.tokenizer.cased import CaseOpsTokenizer
from plgolf.errors import UserError
from plgolf.generation import language_model

RECORD = GOLDEN / "records" / "2026-04-27" / "caseops"
MODEL = RECORD / "fineweb_8192_bpe_lossless_caps_caseops_v1_reserved.model"
TITLE, CAPITALS, CAPITAL, ESCAPE = OPERATORS
ANY = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
TEXT = ANY | st.text(f"aBcD Éé\u2581{OPERATORS}", max_size=40)
"""Any text, and texts of capitals and operators."""
KINDS = pytest.mark.parametrize("kind", ["caseops bpe", "record", "tokenizers"])


@cache
def with_operators(kind: str) -> CaseOpsTokenizer:
    if kind == "record":
        made_by = load_tokenizer(MODEL)
    elif kind == "tokenizers":
        from tokenizers import Tokenizer

        library = Tokenizer.from_buffer(byte_level_json())
        library.add_tokens(list(OPERATORS))
        made_by = tokenizer_of(library.to_str().encode())
    else:
        made_by = tokenizer(kind)
    assert isinstance(made_by, CaseOpsTokenizer) and made_by.transform == "caseops"
    return made_by


def stream(made_by, ids):
    return np.array([made_by.bos_id, *ids], dtype=np.uint16)


def test_the_time_to_transform_is_linear():
    text = "a" * 2_000_000
    assert transformed(text) == text and transformed(text + "B")[-2:] == f"{CAPITAL}b"


@KINDS
@settings(max_examples=150)
@given(text=TEXT)
def test_every_byte_of_the_original_is_counted_once(kind, text):
    made_by = with_operators(kind)
    ids = made_by.encode(text)
    decoded = made_by.decode(ids.tolist())
    by_table = made_by.byte_counts.of_stream(stream(made_by, ids))[1:]
    assert by_table.sum() == len(decoded.encode())
    if ids.size:
        raw = made_by.raw_bytes(text, ids)
        assert raw.shape == ids.shape and raw.min() >= 0 and raw.sum() == len(text.encode())
    if made_by.lossless:
        assert decoded == text == made_by.normalize(text)
        assert not ids.size or (raw == by_table).all()
    assert made_by.lossless == (kind != "record")


@KINDS
@settings(max_examples=150)
@given(data=st.data())
def test_any_ids_stream_as_they_are_decoded(kind, data):
    made_by = with_operators(kind)
    some = [*made_by.operators.tolist(), *made_by.encode("the The THE é \ue001 x").tolist()]
    ids = data.draw(st.lists(st.sampled_from(some) | st.integers(0, made_by.vocab_size - 1), max_size=20))
    pieces = TextStream(made_by)
    assert "".join([*map(pieces.push, ids), pieces.flush()]) == made_by.decode(ids)


def test_an_operator_is_held_back_until_its_letter():
    made_by = with_operators("record")
    title, capitals, _, escape = made_by.operators.tolist()
    the = made_by.inner.encode("the").tolist()[0]
    pieces = TextStream(made_by)
    assert [pieces.push(index) for index in (title, the, escape, title)] == ["", "The", "", TITLE]
    assert [pieces.push(index) for index in (capitals, the, the)] == ["", "THE", "THE"]
    assert pieces.push(capitals) + pieces.flush() == ""


def test_a_word_has_the_same_piece_however_it_is_written():
    made_by = with_operators("caseops bpe")
    names = [set(made_by.encode(f"{word} x").tolist()) for word in ("import", "Import", "IMPORT")]
    plain = names[0]
    assert names[1] - plain == {made_by.operators[0]} and names[2] - plain == {made_by.operators[1]}


def test_only_a_vocabulary_that_reserves_all_operators_has_case_ops():
    proto = ModelProto.FromString(MODEL.read_bytes())
    for changed_type in (ModelProto.SentencePiece.NORMAL, ModelProto.SentencePiece.UNUSED):
        proto.pieces[7].type = changed_type
        assert tokenizer_of(proto.SerializeToString()).transform is None
    assert load_tokenizer(TOKENIZER).transform is None and tokenizer("tokenizers").transform is None
    made_by = with_operators("record")
    assert made_by.operators.tolist() == [4, 5, 6, 7] and made_by.to_bytes() == MODEL.read_bytes()


def test_the_preset_has_the_trainer_of_the_record():
    ours = ModelProto.FromString(tokenizer("caseops_challenge bpe").to_bytes())
    theirs = ModelProto.FromString(MODEL.read_bytes())
    for name in ("byte_fallback", "split_digits", "hard_vocab_limit", "character_coverage", "model_type"):
        assert getattr(ours.trainer_spec, name) == getattr(theirs.trainer_spec, name), name
    for name in ("name", "add_dummy_prefix", "remove_extra_whitespaces", "escape_whitespaces"):
        assert getattr(ours.normalizer_spec, name) == getattr(theirs.normalizer_spec, name), name
    first = [[(p.piece, p.type) for p in proto.pieces[:264]] for proto in (ours, theirs)]
    assert first[0] == first[1]
    assert tokenizer("caseops bpe").lossless and not tokenizer("caseops_challenge bpe").lossless


def model(made_by, **head) -> LanguageModel:
    config = GPTConfig(vocab_size=made_by.vocab_size, dim=32, num_layers=2, compute_dtype="float32", **head)
    return LanguageModel(lively(config), made_by, 16)


def test_a_score_counts_the_bytes_of_the_original_text():
    scorer = model(with_operators("caseops bpe"))
    text = "The NASA iPhone \ue001, Émile"
    score = scorer.score(text)
    assert score.num_bytes == len(text.encode())
    assert score.num_tokens == scorer.tokenizer.encode(text).size
    for call in (scorer.score, scorer.generate):
        with pytest.raises(UserError, match="must be Unicode, got"):
            call("A \ud800")


def test_generated_text_continues_the_capitals_of_the_prompt():
    made_by = with_operators("caseops bpe")
    writer = model(made_by)
    letters = made_by.inner.encode("e").tolist()
    always = 99 * (torch.arange(made_by.vocab_size) == letters[0])
    writer.gpt.head.register_forward_hook(lambda *arguments: arguments[-1] + always)
    continued = [writer.generate(prompt, temperature=0, max_tokens=3) for prompt in ("TH", "Th", "T", "t ")]
    assert continued == ["EEE", "eee", "eee", "eee"]


def test_an_artifact_carries_the_transform_with_its_tokenizer(tmp_path: Path):
    made_by = with_operators("caseops bpe")
    path = tmp_path / "model.int8.ptz"
    writer = model(made_by)
    save_artifact(writer.gpt, path, seq_len=16, tokenizer=made_by.to_bytes(), carry_tokenizer=True)
    loaded = language_model.load_artifact(path)
    text = "".join(some_texts())[:300] + " LOUD Title"
    assert loaded.tokenizer.transform == "caseops"
    assert loaded.score(text).num_tokens == writer.score(text).num_tokens
    assert loaded.generate("THE", seed=1, max_tokens=20) != ""
