from functools import cache

import numpy as np
import pytest
from corpus.texts import TEXT, some_texts, tokenizer
from golden_data import TOKENIZER
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from plgolf.data.tokenizer import SentencePieceTokenizer, TextStream, load_tokenizer

# A space is added before a text and dropped again; all spaces before a text are dropped.
SPACES = {"first": (True, False), "extra": (False, True), "both": (True, True)}
BYTE_LEVEL = ["byte", "tiktoken", "tokenizers"]
KINDS = ["lossless bpe", "lossless unigram", *BYTE_LEVEL, "challenge bpe", "golden", *SPACES]
ALL = pytest.mark.parametrize("kind", KINDS)


@cache
def made(kind):
    if kind == "golden":
        return load_tokenizer(TOKENIZER)
    if kind not in SPACES:
        return tokenizer(kind)
    model = ModelProto.FromString(tokenizer("lossless bpe").to_bytes())
    spec = model.normalizer_spec
    spec.add_dummy_prefix, spec.remove_extra_whitespaces = SPACES[kind]
    return SentencePieceTokenizer(model.SerializeToString())


def pushed(made_by, ids):
    stream = TextStream(made_by)
    return "".join([*(stream.push(index) for index in ids), stream.flush()])


def test_the_tokenizers_drop_different_spaces():
    """The tests below need these differences."""
    said = {}
    for kind in SPACES:
        made_by = made(kind)
        space, letter = (made_by.processor.piece_to_id(piece) for piece in ("\u2581", "a"))
        texts = ([space, letter], [space, space, letter, space, letter])
        said[kind] = [pushed(made_by, ids) for ids in texts]
    assert said == {"first": ["a", " a a"], "extra": ["a", "a a"], "both": ["a", "a a"]}


@cache
def some_ids(kind):
    """Lists of ids, with spaces and parts of characters far more often than by chance."""
    made_by = made(kind)
    spaces = [i for i in range(made_by.vocab_size) if not made_by.decode([i]).strip()][:8]
    pieces = {i: made_by.bytes_of(i) for i in range(made_by.vocab_size)}
    tricky = [i for i, piece in pieces.items() if piece and max(piece) >= 0x80][::3]
    ids = st.integers(0, made_by.vocab_size - 1)
    return st.lists(ids | st.sampled_from(spaces) | st.sampled_from(tricky or spaces), max_size=30)


@ALL
@settings(max_examples=200)
@given(data=st.data())
def test_any_ids_pushed_one_by_one_give_the_decoded_text(kind, data):
    made_by, drawn = made(kind), data.draw(some_ids(kind))
    assert pushed(made_by, drawn) == made_by.decode(drawn)


@ALL
@settings(max_examples=200)
@given(text=TEXT)
def test_any_text_streams(kind, text):
    made_by = made(kind)
    ids = made_by.encode(text).tolist()
    assert pushed(made_by, ids) == made_by.decode(ids)
    if made_by.lossless:
        assert pushed(made_by, ids) == text


@ALL
def test_only_an_incomplete_character_is_held_back(kind):
    made_by = made(kind)
    stream, so_far = TextStream(made_by), []
    text = "".join(some_texts())[:2000] + "é\u3000\U0001f600 日本"
    said = ""
    for index in made_by.encode(text).tolist():
        said += stream.push(index)
        so_far.append(index)
        # Decode shows an incomplete character as one or several U+FFFD, the stream does not show it yet.
        assert made_by.decode(so_far).rstrip("\ufffd") == said
    assert stream.flush() == ""


def test_a_character_is_returned_with_its_last_byte():
    made_by = tokenizer("lossless bpe")
    ids = made_by.encode("\U0001f600").tolist()
    stream = TextStream(made_by)
    assert [stream.push(index) for index in ids] == ["", "", "", "\U0001f600"]
    assert [stream.push(index) for index in ids[:2]] == ["", ""]
    assert stream.flush() == made_by.decode(ids[:2]) == "\ufffd\ufffd"
    assert [stream.push(index) for index in (ids[0], made_by.bos_id)] == ["", "\ufffd"]
    assert [stream.push(index) for index in ids] == ["", "", "", "\U0001f600"]


@ALL
def test_the_time_of_a_push_does_not_grow_with_the_text(kind):
    """Long runs of ids of every kind, also of ids without text."""
    made_by = made(kind)
    tricky = [i for i in range(made_by.vocab_size) if made_by.bytes_of(i) in (b"\x80", b"\xe2")]
    silent = [i for i in range(made_by.vocab_size) if not made_by.decode([i]).strip()]
    decoded = []

    class Counting:
        def decode(self, ids):
            decoded.append(len(ids))
            return made_by.decode(ids)

        transform = None
        bytes_of, byte_counts, byte_level = made_by.bytes_of, made_by.byte_counts, made_by.byte_level

    for ids in (tricky * 500, silent * 50, np.arange(made_by.vocab_size).tolist()):
        decoded.clear()
        assert pushed(Counting(), ids) == made_by.decode(ids)
        assert max(decoded, default=0) <= 5 and len(decoded) <= 2 * len(ids) + 1
