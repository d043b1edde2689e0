import bz2
import gzip
import json
import lzma
import os
import random
import socket

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from corpus.texts import write_jsonl
from hypothesis import given, settings
from hypothesis import strategies as st

from plgolf.corpus.documents import Document, Flaw, Reading, end_of_part
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


def long_zstd(data):
    """Like ``zstd --long=31``: the window needs 2 GiB, which decoders refuse unless they are told not to."""
    settings = zstandard.ZstdCompressionParameters(compression_level=3, window_log=31, enable_ldm=True)
    compressor = zstandard.ZstdCompressor(compression_params=settings).compressobj()
    return compressor.compress(data) + compressor.flush()


COMPRESSORS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd}


@pytest.mark.parametrize(("suffix", "pack"), [("", bytes), (".zst", long_zstd), *COMPRESSORS.items()])
def test_every_compression_gives_the_same_documents(tmp_path, suffix, pack):
    lines = "".join(json.dumps({"id": 1, "text": t}) + "\n" for t in TEXTS).encode()
    (tmp_path / f"a.jsonl{suffix}").write_bytes(pack(lines))
    assert texts(read(tmp_path / f"a.jsonl{suffix}")) == TEXTS
    (tmp_path / f"a.txt{suffix}").write_bytes(pack("\0\n".join(TEXTS).encode()))
    items = read(tmp_path / f"a.txt{suffix}", Reading(separator="\0\n"))
    assert texts(items) == TEXTS and [item.line for item in items] == [1, 2, 5, 6]
    (tmp_path / f"b.txt{suffix}").write_bytes(pack("".join(TEXTS).encode()))
    assert texts(read(tmp_path / f"b.txt{suffix}")) == ["".join(TEXTS)]
    for name in ("a.json", "a.csv", "a.tsv", "any.tex", "noending"):
        (tmp_path / f"{name}{suffix}").write_bytes(pack(b'"text"\n"some text"\n'))
        expected = {"a.json": ["text", "some text"], "a.csv": ["some text"], "a.tsv": ["some text"]}
        assert texts(read(tmp_path / f"{name}{suffix}")) == expected.get(name, ['"text"\n"some text"\n'])


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_compressed_files_of_several_parts_are_read_to_the_end(tmp_path, suffix):
    path, pack = tmp_path / f"a.txt{suffix}", COMPRESSORS[suffix]
    noise = random.Random(0).randbytes(30_000).hex()
    path.write_bytes(pack(noise.encode()) + pack(b" and more") + b"\0" * 512)
    assert texts(read(path)) == [noise + " and more"]


def test_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    for kind in (pyarrow.string(), pyarrow.large_string(), pyarrow.binary()):
        column = pyarrow.array(TEXTS, pyarrow.string()).cast(kind)
        pyarrow.parquet.write_table(pyarrow.table({"n": [1, 2, 3, 4], "body": column}), path)
        assert texts(read(path, Reading(text_field="body"))) == TEXTS
    with pytest.raises(ValueError, match=r"a\.parquet: 'text' is not among its columns 'n', 'body'"):
        read(path)
    with pytest.raises(ValueError, match=r"is damaged, or has no text in 'n'"):
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
    with pytest.raises(ValueError, match="is damaged"):
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


def test_a_byte_order_mark_does_not_belong_to_json_or_csv(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n{"text": "b"}\r\n')
    assert texts(read(tmp_path / "a.jsonl")) == ["a", "b"]
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf["a", "b"]')
    assert texts(read(tmp_path / "a.json")) == ["a", "b"]
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbftext\r\na\r\nb\r\n")
    assert texts(read(tmp_path / "a.csv")) == ["a", "b"]
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
    # Empty pieces are left out.
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


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_a_damaged_compressed_file_is_refused(tmp_path, suffix):
    noise = random.Random(0)
    lines = "".join(json.dumps({"text": noise.randbytes(50).hex()}) + "\n" for _ in range(1000)).encode()
    path, packed = tmp_path / f"a.jsonl{suffix}", COMPRESSORS[suffix](lines)
    for damaged, message in [
        (packed[:-9], "it is cut short"),
        (b"", "it is cut short"),
        (packed + packed[:-9], "it is cut short"),
        (b"plain text", "it is damaged: "),
        (packed + b"plain text", "it is damaged: "),
    ]:
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"a\.jsonl{suffix}: cannot be read: {message}"):
            read(path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('[{"text": "one"}, {"id": 1, "text": "two, ]["}]', ["one", "two, ]["]),
        ('["one",\n "two"]', ["one", "two"]),
        ('{"text": "one"}\n{"text": "two"}\n', ["one", "two"]),
        ('{\n  "text": "one",\n  "more": [1, {"text": "no"}]\n}', ["one"]),
        ("[]", []),
        (" \n", []),
        (
            json.dumps([{"text": f"{i} " * 5000} for i in range(50)], indent=2),
            [f"{i} " * 5000 for i in range(50)],
        ),
    ],
)
def test_json_files_of_the_usual_kinds(tmp_path, content, expected):
    (tmp_path / "a.json").write_text(content)
    assert texts(read(tmp_path / "a.json")) == expected


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.text('a"\\[]{},é\n ', max_size=9), min_size=1),
    chunk=st.integers(1, 9),
    indent=st.sampled_from([None, 1]),
    in_array=st.booleans(),
)
def test_json_does_not_depend_on_how_the_file_is_read(tmp_path_factory, values, chunk, indent, in_array):
    path = tmp_path_factory.mktemp("json") / "a.json"
    records = [{"text": f"-{value}", "n": [1]} for value in values]
    whole = json.dumps(records, indent=indent, ensure_ascii=False)
    each = "\n".join(json.dumps(record, indent=indent, ensure_ascii=False) for record in records)
    path.write_text(whole if in_array else each)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("plgolf.corpus.records._CHUNK_BYTES", chunk)
        items = read(path)
    assert texts(items) == [record["text"] for record in records]
    assert [item.line for item in items] == sorted(item.line for item in items)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"text": "one"}', "a.json:1: broken JSON: "),
        ('[{"text": "one"},\n{"text": ', "a.json:2: broken JSON: "),
        ('["one"]]', "a.json:1: broken JSON: "),
        ('\n{"text": "one"} two', "a.json:2: broken JSON: "),
        ('[["one"], ["two"]]', "an array of arrays has no documents"),
        ("[" * 100_000, "broken JSON: "),
        ('["' + "a" * 5_000 + '"', "broken JSON: .* or more than 400 bytes"),
    ],
)
def test_a_broken_json_file_is_refused(tmp_path, monkeypatch, content, message):
    monkeypatch.setattr("plgolf.corpus.records._CHUNK_BYTES", 64)
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "a.json", Reading(max_document_bytes=100))


def test_flaws_of_json_files_have_their_lines(tmp_path):
    (tmp_path / "a.json").write_bytes(b'[{"text": "a"},\n {"data": []},\n 7, "", "\xff", "\\ud800",\n\n "b"]')
    items = read(tmp_path / "a.json")
    assert [(item.line, getattr(item, "reason", "fine")) for item in items] == [
        (1, "fine"),
        (2, "no text field"),
        (3, "no text field"),
        (3, "empty document"),
        (3, "malformed UTF-8"),
        (3, "malformed UTF-8"),
        (5, "fine"),
    ]
    assert "'text' is not among 'data' (--text_field)" in str(items[1]) and "byte 0xff" in str(items[4])


def test_csv_files(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(
        b'id,body\r\n1,"two\r\nlines, and ""quotes"""\r\n\r\n2,\xe9\r\n3\r\n4,a,b\r\n5,\r\n6,last'
    )
    items = read(path, Reading(text_field="body"))
    assert [(item.line, getattr(item, "reason", None) or item.text) for item in items] == [
        (2, 'two\r\nlines, and "quotes"'),
        (5, "malformed UTF-8"),
        (6, "broken CSV"),
        (7, "broken CSV"),
        (8, "empty document"),
        (9, "last"),
    ]
    (tmp_path / "a.tsv").write_text("text\tid\nof, it\t1\n")
    assert texts(read(tmp_path / "a.tsv")) == ["of, it"]
    long = "a" * 300_000  # More than the csv module reads by default.
    path.write_text(f"text\n{long}\n")
    assert texts(read(path)) == [long]
    [bad] = read(path, Reading(max_document_bytes=100_000))
    assert (bad.reason, bad.line) == ("too long", 2)
    for content, message in [
        ("id;text\n", r"a\.csv:1: 'text' is not among 'id;text' \(--text_field\)"),
        ("", r"a\.csv:1: 'text' is not among no fields"),
        ('text\na\n"b\n', r"a\.csv:3: broken CSV: unexpected end of data"),
        ('text\n"a" b\n', r"a\.csv:2: broken CSV: ',' expected after '\"'"),
        (f"text\n{long}\n", r"a\.csv:2: broken CSV: a line has more than 400 characters"),
    ]:
        path.write_text(content)
        with pytest.raises(ValueError, match=message):
            read(path, Reading(max_document_bytes=100))


def test_files_of_any_name_are_text_unless_they_are_binary(tmp_path):
    for name, content in [
        ("main.py", b"print()"),
        ("README", "é\x07".encode()),
        ("a.html", b"<p>"),
        ("x.gz", b""),
    ]:
        (tmp_path / name).write_bytes(gzip.compress(content) if name == "x.gz" else content)
        [item] = read(tmp_path / name)
        assert item.text == content.decode() if content else item.reason == "empty document"
    figure = b"\x89PNG\r\n\x1a\n" + bytes(20)
    for name, content, reason, detail in [
        ("a.png", figure, "binary file", "byte 0x00 at 8, which text does not have"),
        (
            "a.pdf",
            b"%PDF-1.5\n%\xe2\xe3\xcf\xd3\n\x10\x11",
            "binary file",
            "byte 0x10 at 15, malformed UTF-8 at 10",
        ),
        ("a.tar.gz", gzip.compress(figure), "binary file", "byte 0x00"),
        ("latin.txt2", "caf\xe9".encode("latin-1"), "malformed UTF-8", "byte 0xe9"),
        (
            "windows.log",
            "caf\xe9".encode("utf-16"),
            "malformed UTF-8",
            "as in UTF-16: convert the file to UTF-8",
        ),
        (
            "windows.txt",
            "caf\xe9".encode("utf-16"),
            "malformed UTF-8",
            "as in UTF-16: convert the file to UTF-8",
        ),
    ]:
        (tmp_path / name).write_bytes(content)
        [item] = read(tmp_path / name)
        assert (item.reason, item.line) == (reason, 1) and detail in item.detail, name
    # A format that is asked for is used.
    (tmp_path / "nul.dat").write_bytes(b"a\0b")
    assert texts(read(tmp_path / "nul.dat", Reading(format="txt"))) == ["a\0b"]


def test_a_folder_stands_for_its_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b/2.txt", "b/a[1]/1.jsonl", "b/.hidden/x.txt", "b/.DS_Store", "set/manifest.json", "c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "link").symlink_to("b/a[1]")
    assert [file.name for file in find_files(["b"], Reading())] == ["b/2.txt", "b/a[1]/1.jsonl"]
    assert [file.name for file in find_files(["b/", "c.txt"], Reading())] == [
        "b/2.txt",
        "b/a[1]/1.jsonl",
        "c.txt",
    ]
    assert [file.name for file in find_files(["link"], Reading())] == ["link/1.jsonl"]
    everything = [file.name for file in find_files(["."], Reading(), leave_out=tmp_path / "set")]
    assert everything == ["b/2.txt", "b/a[1]/1.jsonl", "c.txt", "link/1.jsonl"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: matches no file"):
        find_files(["empty"], Reading())


@pytest.mark.parametrize("name", ["*.txt", "deep/**/*.txt", "deep", "deep/b.txt"])
def test_a_file_that_matches_and_cannot_be_read_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deep").mkdir()
    for folder in (tmp_path, tmp_path / "deep"):
        (folder / "a.txt").write_text("x")
    matched = "b.txt" if name == "*.txt" else "deep/b.txt"
    path = tmp_path / matched
    path.symlink_to("nowhere")
    with pytest.raises(
        ValueError, match=rf"{matched}: cannot be read: No such file .*it is a link to nowhere"
    ):
        find_files([name], Reading())
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ValueError, match=f"{matched}: is not a regular file"):
        find_files([name], Reading())
    path.unlink()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(matched)
        with pytest.raises(ValueError, match=f"{matched}: is not a regular file"):
            find_files([name], Reading())


@pytest.mark.skipif(os.geteuid() != 0, reason="changes its user, which only root may")
@pytest.mark.parametrize("name", ["**/*.txt", "*/*.txt", "."])
def test_a_folder_that_cannot_be_read_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "a.txt").write_text("x")
    (tmp_path / "locked").mkdir(mode=0)
    tmp_path.chmod(0o755)
    os.seteuid(65534)
    try:
        with pytest.raises(ValueError, match="locked/: cannot be read: Permission denied"):
            find_files([name], Reading())
    finally:
        os.seteuid(0)


@given(text=st.text("ab \n\ré日", min_size=2), first=st.integers(0, 20), data=st.data())
def test_a_text_is_cut_between_characters(text, first, data):
    content = text.encode()
    last = data.draw(st.integers(1, len(content) - 1))
    cut = end_of_part(content, min(first, last), last)
    assert 0 <= cut <= last
    assert content[:cut].decode() + content[cut:].decode() == text


def test_a_long_text_is_cut_after_paragraphs_if_it_may_be(tmp_path):
    path = tmp_path / "a.txt"
    paragraphs = [f"{i} " * 30 + "\n\n" for i in range(50)]
    path.write_text("".join(paragraphs))
    reading = Reading(max_document_bytes=700)
    [file] = find_files([str(path)], reading)
    file.cut_long = True
    items = list(file.documents(reading))
    assert "".join(texts(items)) == "".join(paragraphs) and 5 < len(items) < 15
    assert all(item.num_bytes <= 700 and item.text.endswith("\n\n") for item in items)
    lines = "".join(paragraphs).splitlines()
    assert all(lines[item.line - 1].startswith(item.text[:5]) for item in items)


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
    assert find_files(["noformat"], Reading())[0].format is None
    for name, message in [
        ("none.txt", "none.txt: cannot be read: No such file"),
        ("none*.txt", r"none\*.txt: matches no file"),
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
