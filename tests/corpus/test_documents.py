import gzip
import json
import random

import pyarrow
import pyarrow.parquet
import pytest
from corpus.texts import write_jsonl
from hypothesis import given, settings
from hypothesis import strategies as st

from plgolf.corpus.documents import Document, Flaw, Reading
from plgolf.corpus.text_files import TextFile, find_files

TEXTS = ["one", "zwei\nLinien\r\n", "trois \U0001f600", " four "]


def read(path, reading=None):
    reading = reading or Reading()
    [file] = find_files([str(path)], reading)
    items = list(file.documents(reading))
    assert file.position == file.size
    return items


def texts(items):
    assert all(isinstance(item, Document) for item in items), items
    assert all(item.num_bytes == len(item.text.encode()) for item in items)
    return [item.text for item in items]


def zstd(data):
    return pyarrow.compress(data, codec="zstd", asbytes=True)


@pytest.mark.parametrize(("suffix", "pack"), [("", bytes), (".gz", gzip.compress), (".zst", zstd)])
def test_the_same_documents_from_every_format(tmp_path, suffix, pack):
    lines = "".join(json.dumps({"id": 1, "text": t}) + "\n" for t in TEXTS).encode()
    (tmp_path / f"a.jsonl{suffix}").write_bytes(pack(lines))
    assert texts(read(tmp_path / f"a.jsonl{suffix}")) == TEXTS
    (tmp_path / f"a.txt{suffix}").write_bytes(pack("\0\n".join(TEXTS).encode()))
    items = read(tmp_path / f"a.txt{suffix}", Reading(separator="\0\n"))
    assert texts(items) == TEXTS and [item.line for item in items] == [1, 2, 5, 6]
    (tmp_path / f"b.txt{suffix}").write_bytes(pack("".join(TEXTS).encode()))
    assert texts(read(tmp_path / f"b.txt{suffix}")) == ["".join(TEXTS)]


def test_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    for kind in (pyarrow.string(), pyarrow.large_string(), pyarrow.binary()):
        column = pyarrow.array(TEXTS, pyarrow.string()).cast(kind)
        pyarrow.parquet.write_table(pyarrow.table({"n": [1, 2, 3, 4], "body": column}), path)
        assert texts(read(path, Reading(text_field="body"))) == TEXTS
    with pytest.raises(ValueError, match=r"a\.parquet: 'text' is not among its columns 'n', 'body'"):
        read(path)
    with pytest.raises(ValueError, match=r"no whole Parquet file with text in 'n'"):
        read(path, Reading(text_field="n"))
    column = pyarrow.array([b"ok", None, b"\xff", b"", b"x" * 11], pyarrow.binary())
    pyarrow.parquet.write_table(pyarrow.table({"text": column}), path)
    items = read(path, Reading(max_document_bytes=10))
    assert [item.reason for item in items[1:]] == [
        "no text field",
        "malformed UTF-8",
        "empty document",
        "too long",
    ]
    assert [item.line for item in items] == [1, 2, 3, 4, 5]
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match="is no whole Parquet file"):
        read(path)


@pytest.mark.parametrize(
    ("line", "reason", "detail"),
    [
        (b'{"text": "a\xff"}', "malformed UTF-8", "byte 0xff"),
        (b'{"text": "\\ud800"}', "malformed UTF-8", "half of a surrogate pair, U+D800"),
        (b'{"text": "a"', "broken JSON", "delimiter"),
        (b"[" * 100_000, "broken JSON", ""),
        (b'{"text": 1' + b"0" * 5000 + b"}", "broken JSON", "digits"),
        (b'{"txt": "a", "n": 1}', "no text field", "'text' is not among 'txt', 'n' (--text_field)"),
        (b'{"text": null}', "no text field", "'text' must be a string, got NoneType"),
        (b'["text"]', "no text field", "an object with 'text' is expected, got list"),
        (b'{"text": ""}', "empty document", ""),
    ],
)
def test_a_bad_line_is_named_and_the_others_are_read(tmp_path, line, reason, detail):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "before"}\n\n  \n' + line + b'\n{"text": "after"}')
    before, bad, after = read(path)
    assert (before.text, before.line, after.text, after.line) == ("before", 1, "after", 5)
    assert isinstance(bad, Flaw) and bad.reason == reason and detail in bad.detail
    assert str(bad).startswith(f"{path}:4: {reason}")


def test_a_byte_order_mark_is_no_part_of_json(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n{"text": "b"}\r\n')
    assert texts(read(tmp_path / "a.jsonl")) == ["a", "b"]
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfa")
    assert texts(read(tmp_path / "a.txt")) == ["\ufeffa"]


def test_bad_text_is_named_by_its_line(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\ntwo\xc3\nthree")
    [bad] = read(path)
    assert str(bad) == f"{path}:2: malformed UTF-8: byte 0xc3"
    items = read(path, Reading(separator="\n"))
    assert [item.line for item in items] == [1, 2, 3] and items[1].reason == "malformed UTF-8"
    path.write_bytes(b"")
    assert [item.reason for item in read(path)] == ["empty document"]
    # Nothing between two separators, or after the last one, is no document.
    path.write_bytes(b"\n\na\n\n\nb\n")
    assert [(i.text, i.line) for i in read(path, Reading(separator="\n"))] == [("a", 3), ("b", 6)]


def test_long_documents_are_refused_without_being_read_into_memory(tmp_path):
    path, size = tmp_path / "a.jsonl", 100_000_000
    with path.open("wb") as file:
        file.write(b'{"text": "before"}\n{"text": "')
        for _ in range(100):
            file.write(b"x" * (size // 100))
        file.write(b'"}\n{"text": "after"}\n')
    reading = Reading(max_document_bytes=1_000_000)
    before, bad, after = read(path, reading)
    assert (before.text, after.text, bad.line, after.line) == ("before", "after", 2, 3)
    assert "must be at most 4000000 bytes (--max_document_bytes)" in bad.detail
    [bad] = read(path.rename(tmp_path / "a.txt"), reading)
    assert bad.reason == "too long" and "--separator" in bad.detail
    items = read(tmp_path / "a.txt", Reading(separator="\n", max_document_bytes=1_000_000))
    assert [getattr(item, "reason", "fine") for item in items] == ["fine", "too long", "fine"]
    assert [item.line for item in items] == [1, 2, 3]
    # A line may be longer than a document for its escapes, the document itself may not.
    path.write_text(
        json.dumps({"text": "a" * 1000, "more": "b" * 2000}) + '\n{"text": "' + "a" * 1001 + '"}\n'
    )
    items = read(path, Reading(max_document_bytes=1000))
    assert [getattr(item, "reason", "fine") for item in items] == ["fine", "too long"]


@settings(max_examples=100, deadline=None)
@given(
    pieces=st.lists(st.text("ab\n", max_size=8)),
    separator=st.sampled_from(["\n", "\n\n", "ab", "-----"]),
    chunk=st.integers(1, 9),
    limit=st.integers(1, 12),
)
def test_cutting_does_not_depend_on_how_the_file_is_read(tmp_path_factory, pieces, separator, chunk, limit):
    path = tmp_path_factory.mktemp("cut") / "a.txt"
    content = separator.join(pieces)
    path.write_text(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("plgolf.corpus.documents._CHUNK_BYTES", chunk)
        items = read(path, Reading(separator=separator, max_document_bytes=limit))
    expected, position = [], 0
    for piece in content.split(separator):
        line = content[:position].count("\n") + 1
        if piece:
            expected.append((piece if len(piece) <= limit else None, line))
        position += len(piece) + len(separator)
    assert [(getattr(item, "text", None), item.line) for item in items] == expected


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.zst"])
def test_a_compressed_file_cut_short_is_an_error_and_not_the_end(tmp_path, suffix):
    noise = random.Random(0)
    lines = "".join(json.dumps({"text": noise.randbytes(50).hex()}) + "\n" for _ in range(1000)).encode()
    path = tmp_path / f"a{suffix}"
    path.write_bytes((gzip.compress if "gz" in suffix else zstd)(lines)[:-9])
    with pytest.raises(ValueError, match=rf"a{suffix}: (is no whole|cannot be read: Truncated)"):
        read(path)
    path.write_bytes(b"plain text")
    with pytest.raises(ValueError, match=rf"a{suffix}: cannot be read"):
        read(path)


def test_inputs_are_found_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b.txt", "a.txt", "deep/er/c.jsonl.gz", "odd[1].txt", "noformat"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    files = find_files(["*.txt", "deep/**/*", "odd[1].txt"], Reading())
    assert [(f.name, f.format) for f in files] == [
        ("a.txt", "txt"),
        ("b.txt", "txt"),
        ("odd[1].txt", "txt"),
        ("deep/er/c.jsonl.gz", "jsonl"),
        ("odd[1].txt", "txt"),
    ]
    assert find_files(["noformat"], Reading(format="jsonl"))[0].format == "jsonl"
    for name, message in [
        ("none.txt", "none.txt: cannot be read: No such file"),
        ("none*.txt", r"none\*.txt: matches no file"),
        ("deep", "deep: is a folder: name its files"),
        ("noformat", "noformat: cannot tell its format by its name"),
    ]:
        with pytest.raises(ValueError, match=message):
            find_files([name], Reading())


def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", ["a", "b"])
    [file] = find_files([str(path)], Reading())
    items = file.documents(Reading())
    next(items)
    with path.open("a") as more:
        more.write('{"text": "c"}\n')
    with pytest.raises(ValueError, match=r"a\.jsonl: has changed while it was read"):
        list(items)
    assert isinstance(file, TextFile)


def test_settings_are_checked():
    with pytest.raises(ValueError, match="separator must not be empty"):
        Reading(separator="")
    with pytest.raises(ValueError, match="max_document_bytes must be from 1 to .*, got 0"):
        Reading(max_document_bytes=0)
