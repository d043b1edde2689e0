import json
from pathlib import Path

import numpy as np
import pytest
from corpus.texts import TEXT, some_texts, tokenizer
from golden_data import TOKENIZER, VOCAB_SIZE, arrays
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from plgolf.data.tokenizer import ByteTokenizer, SentencePieceTokenizer, load_tokenizer

LOSSLESS = pytest.mark.parametrize("kind", ["lossless bpe", "lossless unigram", "byte"])
ALL = pytest.mark.parametrize("kind", ["lossless bpe", "lossless unigram", "byte", "challenge bpe"])


def stream(documents, made_by):
    parts = [np.array([made_by.bos_id, *ids], dtype=np.uint16) for ids in documents]
    return np.concatenate(parts)


def test_byte_tables_are_the_references():
    golden = arrays("tied", "bpb_luts")
    tables = load_tokenizer(TOKENIZER).byte_counts
    np.testing.assert_array_equal(tables.base_bytes, golden["base_bytes"])
    np.testing.assert_array_equal(tables.has_leading_space, golden["has_leading_space"])
    np.testing.assert_array_equal(tables.is_boundary, golden["is_boundary"])


@LOSSLESS
@settings(max_examples=300, deadline=None)
@given(texts=st.lists(TEXT, min_size=1, max_size=5))
def test_any_text_comes_back_and_every_byte_is_counted(kind, texts):
    made_by = tokenizer(kind)
    assert made_by.lossless
    encoded = made_by.encode_batch(texts)
    for text, ids in zip(texts, encoded, strict=True):
        assert made_by.decode(ids.tolist()) == text == made_by.normalize(text)
        assert made_by.raw_bytes(text, ids).sum() == len(text.encode())
    tokens = stream(encoded, made_by)
    counts = made_by.byte_counts
    assert counts.of_stream(tokens).sum() == len("".join(texts).encode())
    # Target by target, as in training, is the same but for the first token, which is no target.
    assert counts(tokens[:-1], tokens[1:]).sum() == len("".join(texts).encode())
    assert made_by.decode_documents(tokens) == [text for text in texts if text]


@settings(max_examples=300, deadline=None)
@given(text=TEXT)
@pytest.mark.parametrize("model", ["challenge bpe", "golden"])
def test_a_tokenizer_that_normalises_counts_its_own_text_and_shares_out_the_raw_bytes(model, text):
    made_by = load_tokenizer(TOKENIZER) if model == "golden" else tokenizer(model)
    assert not made_by.lossless
    ids = made_by.encode(text)
    decoded = made_by.decode(ids.tolist())
    assert made_by.byte_counts.of_stream(stream([ids], made_by)).sum() == len(decoded.encode())
    assert made_by.encode(made_by.normalize(text).replace("\u2581", " ")).tolist() == ids.tolist()
    if ids.size:
        raw = made_by.raw_bytes(text, ids)
        assert raw.shape == ids.shape and raw.min() >= 0 and raw.sum() == len(text.encode())


def test_raw_bytes_are_those_a_token_was_made_from():
    golden = load_tokenizer(TOKENIZER)
    ids = golden.encode("  a ﬁx   b ")
    pieces = [golden.processor.id_to_piece(int(i)) for i in ids]
    raw = golden.raw_bytes("  a ﬁx   b ", ids).tolist()
    assert list(zip(pieces, raw, strict=True)) == [
        ("a", 3),  # With the blanks in front, which no token stands for.
        ("▁f", 1),  # The ligature's three bytes are all with its last letter.
        ("i", 3),
        ("x", 1),
        ("▁b", 5),  # Three blanks that became one, and the one at the end that became nothing.
    ]


def test_the_worked_example_of_the_documentation_is_right():
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text().split("A worked example")[1]
    rows = [
        [cell.strip("` ") for cell in line.split("|")[1:4]]
        for line in page.splitlines()
        if line.startswith("| `")
    ]
    golden, text = load_tokenizer(TOKENIZER), " The ﬁrst  café\n"
    ids = golden.encode(text)
    scored = golden.byte_counts.of_stream(stream([ids], golden))[1:]
    expected = [
        [golden.processor.id_to_piece(int(i)), str(s), str(r)]
        for i, s, r in zip(ids, scored, golden.raw_bytes(text, ids), strict=True)
    ]
    assert rows == expected and scored.sum() == 15 and len(text.encode()) == 19
    assert golden.decode(ids.tolist()) == "The first café"


@ALL
def test_plain_sentencepiece_gives_the_same_ids(kind):
    """Only what SentencePiece cannot represent is encoded otherwise: nothing, in ordinary text."""
    if kind == "byte":
        return
    made_by = tokenizer(kind)
    processor = SentencePieceProcessor(model_proto=made_by.to_bytes())
    for text, ids in zip(some_texts(), made_by.encode_batch(some_texts()), strict=True):
        assert processor.encode(text) == ids.tolist()


@ALL
def test_the_special_ids_are_the_same_everywhere(kind):
    made_by = tokenizer(kind)
    assert made_by.bos_id == 1
    assert made_by.byte_counts.is_boundary[:4].all() and not made_by.byte_counts.base_bytes[:4].any()
    assert made_by.vocab_size == (260 if kind == "byte" else 512)


@pytest.mark.parametrize(
    ("options", "lossless"),
    [
        ({}, True),
        ({"add_dummy_prefix": True}, False),
        ({"remove_extra_whitespaces": True}, False),
        ({"normalization_rule_name": "nfkc"}, False),
        ({"byte_fallback": False}, False),
    ],
)
def test_lossless_is_read_from_the_model(tmp_path, options, lossless):
    SentencePieceTrainer.train(
        sentence_iterator=iter(some_texts()),
        model_prefix=str(tmp_path / "m"),
        **{
            "vocab_size": 400,
            "model_type": "bpe",
            "character_coverage": 0.98,
            "normalization_rule_name": "identity",
            "add_dummy_prefix": False,
            "remove_extra_whitespaces": False,
            "byte_fallback": True,
            "minloglevel": 2,
            **options,
        },
    )
    made_by = load_tokenizer(tmp_path / "m.model")
    assert made_by.lossless is lossless
    for text in ("ab  cd", "x"):
        ids = made_by.encode(text)
        decoded = made_by.decode_documents(stream([ids], made_by))
        assert (
            sum(len(d.encode()) for d in decoded)
            == made_by.byte_counts.of_stream(stream([ids], made_by)).sum()
        )
        assert made_by.raw_bytes(text, ids).sum() == len(text.encode())


def test_tokenizer_files(tmp_path):
    for made_by in (ByteTokenizer(), tokenizer("lossless bpe")):
        path = tmp_path / made_by.file_name
        path.write_bytes(made_by.to_bytes())
        again = load_tokenizer(path)
        assert type(again) is type(made_by) and again.sha256 == made_by.sha256
        assert again.vocab_size == made_by.vocab_size
    content = json.loads(ByteTokenizer().to_bytes())
    assert content["vocab_size"] == 260 and content["config"]["byte_offset"] == 4
    with pytest.raises(ValueError, match="no tokenizer there"):
        load_tokenizer(tmp_path / "none.model")
    for name, text, message in [
        ("bad.model", b"no model", "is no SentencePiece model"),
        ("empty.model", b"", "is no SentencePiece model"),
        ("bad.json", b"{", "is no JSON"),
        ("char.json", b'{"tokenizer_type": "char"}', "is not the description of the 260-id byte"),
    ]:
        (tmp_path / name).write_bytes(text)
        with pytest.raises(ValueError, match=message) as error:
            load_tokenizer(tmp_path / name)
        assert str(tmp_path / name) in str(error.value)
    assert load_tokenizer(TOKENIZER).vocab_size == VOCAB_SIZE
    with pytest.raises(ValueError, match="is no SentencePiece model"):
        SentencePieceTokenizer(TOKENIZER.read_bytes()[:1000])
