import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from corpus.texts import END_OF_TEXT, TEXT, byte_level_json, some_texts, tiktoken_settings, tokenizer
from golden_data import TOKENIZER, VOCAB_SIZE, arrays
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from plgolf.data.tokenizer import ByteTokenizer, SentencePieceTokenizer, load_tokenizer, tokenizer_of

tiktoken = pytest.importorskip("tiktoken")
tokenizers = pytest.importorskip("tokenizers")

BYTE_LEVEL = ["byte", "tiktoken", "tokenizers"]
LOSSLESS = pytest.mark.parametrize("kind", ["lossless bpe", "lossless unigram", *BYTE_LEVEL])
ALL = pytest.mark.parametrize("kind", ["lossless bpe", "lossless unigram", "byte", "challenge bpe"])


WORDS = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


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
def test_any_text_is_decoded_unchanged_and_every_byte_is_counted(kind, texts):
    made_by = tokenizer(kind)
    assert made_by.lossless
    encoded = made_by.encode_batch(texts)
    for text, ids in zip(texts, encoded, strict=True):
        assert made_by.decode(ids.tolist()) == text == made_by.normalize(text)
        assert made_by.raw_bytes(text, ids).sum() == len(text.encode())
    tokens = stream(encoded, made_by)
    counts = made_by.byte_counts
    assert counts.of_stream(tokens).sum() == len("".join(texts).encode())
    # Target by target, as in training: the same, as the first token counts no bytes.
    assert counts(tokens[:-1], tokens[1:]).sum() == len("".join(texts).encode())
    assert made_by.decode_documents(tokens) == [text for text in texts if text]


@settings(max_examples=300, deadline=None)
@given(text=TEXT)
@pytest.mark.parametrize("model", ["challenge bpe", "golden"])
def test_a_tokenizer_that_normalises_counts_its_own_text_and_distributes_the_raw_bytes(model, text):
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
        ("a", 3),  # With the two spaces before it.
        ("▁f", 1),  # The ligature's three bytes belong to its last letter.
        ("i", 3),
        ("x", 1),
        ("▁b", 5),  # Three spaces that became one, and the dropped one at the end.
    ]


def test_the_worked_example_of_the_documentation_is_right():
    page = (
        (Path(__file__).parents[2] / "docs" / "data.md").read_text().split("\nExample: ")[1].split("\n## ")[0]
    )
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
    """Only text that SentencePiece cannot represent has other ids; ordinary text has none."""
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
        ("bad.model", b"no model", "must be a SentencePiece model"),
        ("empty.model", b"", "must be a SentencePiece model"),
        ("bad.json", b"{", "must be JSON"),
        (
            "char.json",
            b'{"tokenizer_type": "char"}',
            "must be a tokenizer.json of Hugging Face",
        ),
    ]:
        (tmp_path / name).write_bytes(text)
        with pytest.raises(ValueError, match=message) as error:
            load_tokenizer(tmp_path / name)
        assert str(tmp_path / name) in str(error.value)
    assert load_tokenizer(TOKENIZER).vocab_size == VOCAB_SIZE
    with pytest.raises(ValueError, match="must be a SentencePiece model"):
        SentencePieceTokenizer(TOKENIZER.read_bytes()[:1000])


def write_json(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def changed_json(**changes) -> bytes:
    return json.dumps({**json.loads(byte_level_json()), **changes}).encode()


def test_tiktoken_and_tokenizers_give_the_same_ids_as_each_other_and_as_their_libraries():
    one, other = tokenizer("tiktoken"), tokenizer("tokenizers")
    library = tokenizers.Tokenizer.from_buffer(byte_level_json())
    settings = tiktoken_settings()
    ranks = dict(line.split() for line in settings["ranks"].splitlines())
    encoding = tiktoken.Encoding(
        "test",
        pat_str=settings["pattern"],
        mergeable_ranks={base64.b64decode(piece): int(rank) for piece, rank in ranks.items()},
        special_tokens=settings["special_tokens"],
    )
    assert one.vocab_size == other.vocab_size == encoding.n_vocab == library.get_vocab_size() == 512
    assert one.bos_id == other.bos_id == encoding.eot_token == 511
    for text in (*some_texts()[:20], "  é 日本\n\n\tx  ", "don't 1234"):
        ids = one.encode(text).tolist()
        assert ids == other.encode(text).tolist() == encoding.encode_ordinary(text)
        assert ids == library.encode(text, add_special_tokens=False).ids
        assert one.decode(ids) == other.decode(ids) == encoding.decode(ids) == library.decode(ids) == text
        cut = ids[1 : len(ids) // 2]
        assert one.decode(cut) == other.decode(cut) == encoding.decode(cut)


@pytest.mark.parametrize("kind", ["tiktoken", "tokenizers"])
def test_the_name_of_a_special_token_in_a_text_is_ordinary_text(kind):
    made_by, text = tokenizer(kind), f"a{END_OF_TEXT}b"
    ids = made_by.encode(text)
    assert made_by.bos_id not in ids and made_by.decode(ids.tolist()) == text
    assert made_by.byte_counts.is_boundary.nonzero()[0].tolist() == [511]
    assert made_by.decode([made_by.bos_id, *ids, made_by.bos_id]) == text


def test_a_rank_file_needs_its_settings_beside_it(tmp_path):
    settings = tiktoken_settings()
    path = tmp_path / "mine.tiktoken"
    path.write_text(settings.pop("ranks"))
    with pytest.raises(ValueError, match='mine.tiktoken: needs mine.json beside it, with "pattern" and'):
        load_tokenizer(path)
    for content, message in [("{", "mine.json beside it JSON"), ("[]", "must hold a JSON object")]:
        (tmp_path / "mine.json").write_text(content)
        with pytest.raises(ValueError, match=message):
            load_tokenizer(path)
    write_json(tmp_path / "mine.json", settings)
    made_by = load_tokenizer(path)
    assert made_by.kind == "tiktoken" and made_by.bos_id == 511
    # In one file, as a dataset and an artifact carry it, it is the same tokenizer by hash.
    assert made_by.sha256 == tokenizer("tiktoken").sha256
    assert tokenizer_of(made_by.to_bytes()).encode("Hello").tolist() == made_by.encode("Hello").tolist()


def test_the_token_before_documents_can_be_named(tmp_path):
    settings = {**tiktoken_settings(), "tokenizer_type": "tiktoken"}
    settings["special_tokens"] = {"<pad>": 511, "<doc>": 512}
    path = write_json(tmp_path / "tokenizer.json", {**settings, "bos": "<doc>"})
    assert load_tokenizer(path).bos_id == 512 and load_tokenizer(path).vocab_size == 513
    settings["special_tokens"] = {"<doc>": 600}
    made_by = load_tokenizer(write_json(path, settings))
    assert made_by.bos_id == 600 and made_by.vocab_size == 601
    assert made_by.byte_counts.is_boundary[511:].all() and made_by.decode([520, 600]) == ""


def test_a_post_processor_names_the_token_before_documents():
    library = tokenizers.Tokenizer.from_buffer(byte_level_json())
    library.add_special_tokens(["<|begin_of_text|>"])
    assert tokenizer_of(library.to_str().encode()).bos_id == 511
    library.post_processor = tokenizers.processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 512)]
    )
    made_by = tokenizer_of(library.to_str().encode())
    assert made_by.bos_id == 512
    assert made_by.encode("Hello").tolist() == tokenizer("tokenizers").encode("Hello").tolist()


def test_a_byte_level_normalizer_needs_no_pre_tokenizer():
    made_by = tokenizer_of(changed_json(normalizer={"type": "ByteLevel"}, pre_tokenizer=None))
    text = "some text, é"
    ids = made_by.encode(text)
    assert made_by.decode(ids.tolist()) == text and made_by.raw_bytes(text, ids).sum() == len(text.encode())


def test_added_tokens_with_text_count_its_bytes():
    library = tokenizers.Tokenizer.from_buffer(byte_level_json())
    library.add_tokens(["\u65e5\u672c", "        "])
    made_by = tokenizer_of(library.to_str().encode())
    text = "a        \u65e5\u672c b"
    ids = made_by.encode(text)
    assert {512, 513} <= set(ids.tolist()) and made_by.decode(ids.tolist()) == text
    assert made_by.lossless and made_by.raw_bytes(text, ids).sum() == len(text.encode())


@pytest.mark.parametrize(
    "changes",
    [
        {"normalizer": {"type": "NFKC"}},
        {"normalizer": {"type": "Lowercase"}},
        {"pre_tokenizer": {**WORDS, "add_prefix_space": True}},
        {
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "Split", "pattern": {"String": " "}, "behavior": "Removed", "invert": False},
                    {**WORDS, "use_regex": False},
                ],
            }
        },
    ],
    ids=["nfkc", "lowercase", "prefix", "removed"],
)
@given(text=TEXT)
@settings(max_examples=100, deadline=None)
def test_a_tokenizer_json_that_changes_text_is_not_lossless(changes, text):
    made_by = tokenizer_of(changed_json(**changes))
    assert not made_by.lossless and tokenizer("tokenizers").lossless
    ids = made_by.encode(text)
    assert made_by.byte_counts.of_stream(stream([ids], made_by)).sum() == len(made_by.decode(ids).encode())
    if ids.size:
        raw = made_by.raw_bytes(text, ids)
        assert raw.shape == ids.shape and raw.min() >= 0 and raw.sum() == len(text.encode())
    assert made_by.normalize(text) == " ".join(map(str, ids.tolist()))


def test_a_sentencepiece_model_without_bos_separates_documents_by_eos(tmp_path):
    model = ModelProto.FromString(tokenizer("lossless bpe").to_bytes())
    model.pieces[1].type = ModelProto.SentencePiece.UNUSED
    model.trainer_spec.bos_id = -1
    model.trainer_spec.bos_piece = "<none>"
    made_by = SentencePieceTokenizer(model.SerializeToString())
    assert made_by.processor.bos_id() == -1 and made_by.bos_id == made_by.processor.eos_id() == 2
    assert made_by.lossless
    encoded = made_by.encode_batch(["one", " two"])
    assert made_by.decode_documents(stream(encoded, made_by)) == ["one", " two"]
    ended = np.concatenate([[*ids.tolist(), 2] for ids in encoded])
    assert made_by.decode_documents(ended) == ["one", " two"]
    model.pieces[2].type = ModelProto.SentencePiece.UNUSED
    model.trainer_spec.eos_piece = "<nothing>"
    with pytest.raises(ValueError, match="must have a begin-of-sequence or an end-of-sequence piece"):
        SentencePieceTokenizer(model.SerializeToString())


def test_a_named_encoding_comes_from_tiktoken(tmp_path):
    """``tiktoken_ext`` is tiktoken's way to add encodings; a package of this test adds one."""
    (tmp_path / "tiktoken_ext").mkdir()
    write_json(tmp_path / "settings.json", tiktoken_settings())
    (tmp_path / "tiktoken_ext" / "of_this_test.py").write_text(
        "import base64, json, pathlib\n"
        "def tiny_test():\n"
        f"    settings = json.loads(pathlib.Path({str(tmp_path / 'settings.json')!r}).read_text())\n"
        "    pairs = [line.split() for line in settings['ranks'].splitlines()]\n"
        "    return {'name': 'tiny_test', 'pat_str': settings['pattern'], 'special_tokens': "
        "settings['special_tokens'], 'mergeable_ranks': {base64.b64decode(a): int(b) for a, b in pairs}}\n"
        "ENCODING_CONSTRUCTORS = {'tiny_test': tiny_test}\n"
    )
    code = (
        "from pathlib import Path; from plgolf.data.tokenizer import load_tokenizer; "
        "print(load_tokenizer(Path('tiny_test')).sha256)"
    )
    paths = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    environment = {**os.environ, "PYTHONPATH": paths}
    made = subprocess.check_output([sys.executable, "-c", code], env=environment, cwd=tmp_path, text=True)
    assert made.strip() == tokenizer("tiktoken").sha256


def test_a_named_encoding_without_a_network_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with pytest.raises(ValueError, match="gpt2: tiktoken could not fetch the vocabulary .ProxyError"):
        load_tokenizer(Path("gpt2"))
    with pytest.raises(ValueError, match="gpt7: must be a file or one of tiktoken's .*gpt2"):
        load_tokenizer(Path("gpt7"))


@pytest.mark.parametrize("kind", ["tiktoken", "tokenizers"])
def test_a_missing_package_is_named(kind, monkeypatch):
    content = tokenizer(kind).to_bytes()
    monkeypatch.setitem(sys.modules, kind, None)
    with pytest.raises(ValueError, match=f"needs the {kind} package: pip install {kind}"):
        tokenizer_of(content)
