"""``plgolf data`` on the command line, in a process of its own."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml
from corpus.texts import some_texts, write_jsonl
from golden_data import GOLDEN, TOKENIZER

from plgolf.data.manifest import read_manifest
from plgolf.data.shards import write_shard


def data(*arguments, cwd, **options):
    command = [sys.executable, "-m", "plgolf", "data", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, **options)


def start(*arguments, cwd):
    command = [sys.executable, "-m", "plgolf", "data", *map(str, arguments)]
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_from_text_to_a_verified_dataset(tmp_path):
    for index, text in enumerate(some_texts()):
        (tmp_path / "books" / f"{index}.txt").parent.mkdir(exist_ok=True)
        (tmp_path / "books" / f"{index}.txt").write_text(text)
    done = data("prepare", "books/*.txt", "--root", "data/books", "--vocab_size", 400, cwd=tmp_path)
    assert done.returncode == 0 and not done.stderr
    assert "training a lossless bpe tokenizer of 400 pieces" in done.stdout
    assert done.stdout.endswith("written to data/books\n")
    done = data("verify", "data/books", cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.endswith("all 11 checks passed\n")
    done = data("inspect", "data/books", "--picture", "lengths.png", cwd=tmp_path)
    assert done.returncode == 0
    for words in ("bytes per token", "documents, tokens in each: shortest", "####", "val begins with"):
        assert words in done.stdout
    assert (tmp_path / "lengths.png").read_bytes().startswith(b"\x89PNG")
    shard = next((tmp_path / "data" / "books").glob("books_train_*"))
    shard.write_bytes(shard.read_bytes()[:-2])
    done = data("verify", "data/books", cwd=tmp_path)
    assert done.returncode == 1 and done.stdout.endswith("1 of 1 checks failed\n")
    assert done.stdout.startswith("FAILED  headers and sizes")


def test_standard_input_and_options_from_a_file(tmp_path):
    options = {"root": "set", "separator": "\n---\n", "val_documents": 1, "model_type": "byte"}
    (tmp_path / "set.yaml").write_text(yaml.safe_dump(options))
    text = "one\n---\ntwo\nlines\n---\nthree"
    done = data("prepare", "-c", "set.yaml", "-", cwd=tmp_path, input=text)
    assert done.returncode == 0, done.stderr
    manifest = read_manifest(tmp_path / "set")
    assert manifest.splits["train"].documents == 2 and manifest.splits["train"].raw_bytes == 14
    assert [source["path"] for source in manifest.sources] == ["stdin"]
    assert sorted(path.name for path in (tmp_path / "set").iterdir()) == [
        "manifest.json",
        "set_train_000000.bin",
        "set_val_000000.bin",
        "set_val_000000.bytes",
        "tokenizer.json",
    ]
    # A shell passes the separator with backslashes; standard input is never known to be the same.
    arguments = ["prepare", "-", "--root", "set", "--separator", r"\n---\n", "--val_documents", 1]
    done = data(*arguments, "--model_type", "byte", cwd=tmp_path, input=text)
    assert done.returncode == 2 and "set: holds another dataset, or a part of one: --overwrite" in done.stderr
    done = data(*arguments, "--model_type", "byte", "--overwrite", cwd=tmp_path, input=text)
    assert done.returncode == 0
    assert read_manifest(tmp_path / "set").splits == manifest.splits


@pytest.mark.parametrize("value", ["[a.gz]", "[a.gz,b.txt]", "['a.gz', b.txt]"])
def test_lists_of_inputs_may_be_written_in_brackets(tmp_path, value):
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"held out"))
    (tmp_path / "b.txt").write_text("more")
    (tmp_path / "c.txt").write_text("train")
    for form in ([f"--val_inputs={value}"], ["--val_inputs", value]):
        done = data(
            "prepare", "[c.txt]", "--root", "set", "--model_type", "byte", *form, "--overwrite", cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        assert read_manifest(tmp_path / "set").splits["val"].documents == 1 + ("b.txt" in value)
    (tmp_path / "set.yaml").write_text(f"root: yaml\nmodel_type: byte\ninputs: c.txt\nval_inputs: {value}\n")
    done = data("prepare", "-c", "set.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    # A name or a pattern with brackets is still possible.
    (tmp_path / "[a.gz]").write_bytes(b"a file of this name")
    done = data(
        "prepare", "[bc].txt", "--root", "odd", "--model_type", "byte", "--val_inputs", "[a.gz]", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert [source["path"] for source in read_manifest(tmp_path / "odd").sources] == [
        "[a.gz]",
        "b.txt",
        "c.txt",
    ]


def test_a_folder_of_books_makes_a_dataset(tmp_path):
    (tmp_path / "books").mkdir()
    for index, text in enumerate(some_texts()[:12]):
        (tmp_path / "books" / f"{index}.txt").write_text(text)
    (tmp_path / "books" / "cover.jpg").write_bytes(b"\xff\xd8\xff\xe0\0\x10JFIF")
    arguments = ["prepare", "books", "--root", "books/set", "--vocab_size", 400]
    done = data(*arguments, cwd=tmp_path)
    assert done.returncode == 2 and "books/cover.jpg:1: binary file: byte 0x00 at 4" in done.stderr
    done = data(*arguments, "--on_error", "skip", cwd=tmp_path)
    assert done.returncode == 0 and "left out 1: binary file" in done.stdout
    # The dataset in the folder does not become its own input.
    done = data(*arguments, "--on_error", "skip", cwd=tmp_path)
    assert done.returncode == 0 and "exists already" in done.stdout
    assert data("verify", "books/set", cwd=tmp_path).returncode == 0


@pytest.mark.slow
def test_shards_without_a_tokenizer_need_their_bos_id(tmp_path):
    tokens = np.array([50256, 5, 6, 50256, 7, 1, 9], dtype=np.uint16)
    write_shard(tmp_path / "x_val_000000.bin", tokens)
    done = data("inspect", ".", cwd=tmp_path)
    assert done.returncode == 0 and "val: 7 tokens in 1 shards" in done.stdout
    assert "documents, tokens in each" not in done.stdout
    assert "with --bos_id (50256 for GPT-2)" in done.stdout.splitlines()[-1]
    done = data("inspect", ".", "--bos_id", 50256, cwd=tmp_path)
    assert "2 documents, tokens in each: shortest 2, median 2" in done.stdout
    assert done.stdout.endswith("without a tokenizer, bytes and text are unknown (--tokenizer FILE)\n")
    done = data("inspect", ".", "--bos_id", 0, cwd=tmp_path)
    assert "documents are unknown: begin-of-sequence id 0 does not occur" in done.stdout
    for options, message in [
        (["--bos_id", 65536], "bos_id must be from 0 to 65535, got 65536"),
        (["--bos_id", -1], "bos_id must be from 0 to 65535, got -1"),
        (["--bos_id", 1, "--tokenizer", TOKENIZER], "bos_id must be left out where the tokenizer is known"),
        (["--picture", "a.png"], "picture must have documents to draw: name --tokenizer or --bos_id"),
    ]:
        done = data("inspect", ".", *options, cwd=tmp_path)
        assert done.returncode == 2 and message in done.stderr, done


def test_bare_folders_can_be_inspected(tmp_path):
    done = data("inspect", GOLDEN / "tied", cwd=tmp_path)
    assert done.returncode == 0 and "no manifest.json" in done.stdout and "bytes per token" in done.stdout
    write_shard(tmp_path / "x_val_000000.bin", np.array([1, 5, 6, 1, 7], dtype=np.uint16))
    done = data("inspect", ".", "--tokenizer", TOKENIZER, cwd=tmp_path)
    assert "2 documents, tokens in each: shortest 1, median 1" in done.stdout
    assert "train" not in done.stdout
    assert "sentencepiece, 512 ids, normalises" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prepare", "none.txt", "--root", "r"], "none.txt: cannot be read: No such file or directory"),
        (["prepare", "a.jsonl"], "root"),
        (["prepare", "a.jsonl", "--root", "r", "--vocab_siz", "9"], "vocab_siz"),
        (["prepare", "a.jsonl", "--root", "r", "--preset", "lossy"], "preset"),
        (["prepare", "bad.jsonl", "--root", "r"], "bad.jsonl:2: broken JSON: "),
        (["prepare", "a.jsonl", "--root", "a.jsonl/set"], "a.jsonl/set: cannot be written: "),
        (
            ["prepare", "a.jsonl", "a.jsonl", "--root", "r"],
            "a.jsonl: is among the inputs 2 times",
        ),
        (
            ["prepare", "a.jsonl", "--root", "r", "--val_inputs", "-"],
            "val_inputs must be files: standard input (-)",
        ),
        (["prepare", "/dev/null", "--root", "r", "--format", "txt"], "/dev/null: is not a regular file"),
        (["prepare", "a.jsonl", "--root", "r", "--seed", "-1"], "seed must be from 0 to"),
        (["prepare", "a.jsonl", "--root", "r", "--shard_tokens", "1"], "shard_tokens must be from 1024 to"),
        (["prepare", ".", "--root", "r"], "bad.jsonl:2: broken JSON: "),
        (
            ["prepare", "a.jsonl", "--root", "r", "--max_document_bytes", str(2**60)],
            "max_document_bytes must",
        ),
        (["prepare", "deep.jsonl", "--root", "r"], "deep.jsonl:1: no text field"),
        (["prepare", "a.jsonl", "--root", "r", "--tokenizer", "deep.json"], "deep.json: must be JSON"),
        (["prepare", "a.jsonl", "--root", "a.jsonl"], "a.jsonl: must be a folder"),
        (["prepare", "a.jsonl", "--root", "/proc/r"], "/proc/r: cannot be written: "),
        (
            ["prepare", "a.jsonl", "--root", "r", "--tokenizer", "none.model"],
            "none.model: no tokenizer there",
        ),
        (["prepare", "a.jsonl", "-", "-", "--root", "r"], "standard input (-) can be given only once"),
        (["verify", "none"], "none: no such folder"),
        (["inspect", "none"], "none: no such folder"),
        (["inspect", "."], ".: must hold *_train_<number>.bin or *_val_<number>.bin"),
        (
            ["prepar"],
            "plgolf data must be followed by one of prepare, download, verify, inspect, got prepar",
        ),
    ],
)
def test_mistakes_print_one_line_and_write_nothing(tmp_path, arguments, message):
    write_jsonl(tmp_path / "a.jsonl", ["a", "b"])
    (tmp_path / "deep.json").write_text("[" * 200_000)
    (tmp_path / "deep.jsonl").write_text(json.dumps({f"field{i}": 1 for i in range(100_000)}))
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{\n')
    before = sorted(tmp_path.rglob("*"))
    done = data(*arguments, cwd=tmp_path)
    assert done.returncode == 2 and message in done.stderr
    assert done.stderr.startswith("plgolf: error: ") and done.stderr.count("\n") == 1
    assert len(done.stderr) < 2100
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("module", ["pyarrow", "zstandard", "matplotlib"])
def test_a_missing_package_is_named(tmp_path, module):
    (tmp_path / f"{module}.py").write_text("raise ImportError")
    write_shard(tmp_path / "x_val_000000.bin", np.array([1, 5], dtype=np.uint16))
    (tmp_path / "a.parquet").touch()
    (tmp_path / "a.jsonl.zst").write_bytes(b"x")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    if module == "matplotlib":
        command = ["inspect", ".", "--picture", "a.png", "--bos_id", 1]
    else:
        command = ["prepare", "a.parquet" if module == "pyarrow" else "a.jsonl.zst", "--root", "r"]
    done = data(*command, cwd=tmp_path, env=environment)
    assert done.returncode == 2 and f"needs the {module} package: pip install {module}\n" in done.stderr


@pytest.fixture
def much(tmp_path):
    """Enough text for some seconds."""
    text = "".join(some_texts())
    with (tmp_path / "much.jsonl").open("w") as file:
        for i in range(60):
            file.write(json.dumps({"text": f"{i} {text[:400_000]}"}) + "\n")
    return ["prepare", "much.jsonl", "--root", "set", "--tokenizer", TOKENIZER, "--val_documents", 2]


def wait_until_it_writes(tmp_path, process):
    deadline = time.monotonic() + 60
    shard = tmp_path / ".set.partial" / "set_train_000000.bin"
    while not (shard.exists() and shard.stat().st_size > 100_000):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.slow
def test_after_an_interrupt_the_old_dataset_is_there_and_the_next_run_finishes(tmp_path, much, number):
    small = write_jsonl(tmp_path / "small.jsonl", ["a", "b"])
    old = data("prepare", small, "--root", "set", "--model_type", "byte", "--val_documents", 1, cwd=tmp_path)
    assert old.returncode == 0
    before = {path: path.read_bytes() for path in (tmp_path / "set").iterdir()}
    process = start(*much, "--overwrite", cwd=tmp_path)
    wait_until_it_writes(tmp_path, process)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    assert {path: path.read_bytes() for path in (tmp_path / "set").iterdir()} == before
    if number == signal.SIGINT:
        assert process.returncode == 130 and stderr == "plgolf: interrupted\n"
        assert not (tmp_path / ".set.partial").exists()
    else:
        assert process.returncode == -number and not stderr
    done = data(*much, "--overwrite", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert read_manifest(tmp_path / "set").splits["train"].documents == 58
    assert sorted(path.name for path in tmp_path.iterdir()) == ["much.jsonl", "set", "small.jsonl"]


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_training_a_tokenizer_can_be_interrupted(tmp_path, much, model_type):
    options = ["--model_type", model_type, "--vocab_size", "900"]
    process = start(*much[:4], *options, cwd=tmp_path)
    while "training" not in process.stdout.readline():
        assert process.poll() is None
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    begun = time.monotonic()
    _, stderr = process.communicate(timeout=30)
    assert time.monotonic() - begun < 5
    assert (process.returncode, stderr) == (130, "plgolf: interrupted\n")
    assert [path.name for path in tmp_path.iterdir()] == ["much.jsonl"]


def test_an_interrupt_need_not_wait_for_a_large_file_to_be_hashed(tmp_path):
    with (tmp_path / "large.jsonl").open("wb") as file:
        file.write(b"{\n")
        file.truncate(20_000_000_000)  # A sparse file, which takes a while to read.
    begun = time.monotonic()
    done = data("prepare", "large.jsonl", "--root", "set", "--model_type", "byte", cwd=tmp_path)
    assert done.returncode == 2 and "large.jsonl:1: broken JSON" in done.stderr
    assert time.monotonic() - begun < 5


@pytest.mark.slow
def test_two_processes_that_make_one_dataset_wait_for_each_other(tmp_path, much):
    processes = [start(*much, cwd=tmp_path) for _ in range(2)]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert sum("exists already" in stdout for stdout, _ in outputs) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["much.jsonl", "set"]


def test_odd_names_and_a_closed_pipe(tmp_path):
    write_jsonl(tmp_path / "\udcff \x1b[2J.jsonl", ["日本", "b", "c"])
    script = f"{sys.executable} -m plgolf data prepare *.jsonl --root set --model_type byte --val_documents 2"
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    script = f"set -o pipefail; {sys.executable} -m plgolf data inspect set | true"
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode in (0, 141) and not done.stderr
    done = data("inspect", "set", cwd=tmp_path, env={**os.environ, "PYTHONIOENCODING": "latin-1"})
    assert done.returncode == 0 and "\\u65e5\\u672c" in done.stdout
    manifest = json.loads((tmp_path / "set" / "manifest.json").read_text())
    (tmp_path / "set" / "manifest.json").write_text(json.dumps(manifest | {"byte_note": "\x1b[2J"}))
    assert "\x1b" not in data("inspect", "set", cwd=tmp_path).stdout


def test_a_full_disk_prints_one_line(tmp_path, much):
    command = f"ulimit -f 1500; exec {sys.executable} -m plgolf data {' '.join(map(str, much))}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stderr == "plgolf: error: set: cannot be written: File too large\n"
    assert [path.name for path in tmp_path.iterdir()] == ["much.jsonl"]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_input(tmp_path):
    """Peak memory of a process; benchmarks/prepare.py measures it with 1 GB and a trained tokenizer."""
    if not os.path.exists("/proc/self/status"):
        pytest.skip("peak memory is read from /proc: getrusage's begins with the parent's")
    code = (
        "import sys; from plgolf.cli import main; status = main(sys.argv[1:]);"
        "print([line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')][0]);"
        "sys.exit(status)"
    )
    text, peaks = "".join(some_texts())[:100_000], []
    for megabytes in (10, 120):
        source = write_jsonl(tmp_path / f"{megabytes}.jsonl", [f"{i} {text}" for i in range(10 * megabytes)])
        command = ["data", "prepare", source, "--root", tmp_path / str(megabytes), "--model_type", "byte"]
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, command), "--workers", "2", "--shuffle"],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout.split()[-1]) / 1000)
    assert peaks[1] < peaks[0] + 60 < 300, peaks
