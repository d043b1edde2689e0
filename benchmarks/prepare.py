"""Measures how fast text becomes a dataset, beside SentencePiece alone, and the memory that it takes.

    python benchmarks/prepare.py [--megabytes 100] [--rounds 3] [--threads 2] [--gigabyte]

The text is the standard library's sources, repeated, in numbered documents of 3,000 characters, as JSON lines
and as one text file with separators. Bare: ``encode`` to numpy arrays of the same texts, in memory, in one
call with the same number of threads: the fastest that the library has. Prepared: all that ``plgolf data
prepare`` does with the same tokenizer, from reading the file to the manifest. The two alternate in one
process; speeds are medians, the ratio is the median of the rounds'. Peak memory is that of a process of its
own, tokenizer training included.
"""

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from sentencepiece import SentencePieceProcessor

from plgolf.console import Terminal
from plgolf.corpus.building import Output
from plgolf.corpus.documents import Document, Reading
from plgolf.corpus.prepare import prepare
from plgolf.corpus.splitting import Holdout
from plgolf.corpus.stdlib import stdlib_files
from plgolf.corpus.tokenizer_training import TokenizerRecipe, train_tokenizer

SEPARATOR = "\0\n"
MEASURED = """
import sys, time
begun = time.perf_counter()
from plgolf.cli import main
status = main(sys.argv[1:])
seconds = time.perf_counter() - begun
# Not getrusage: its peak begins with the parent's.
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(seconds, int(peak) / 1024)
sys.exit(status)
"""


def texts(characters: int = 3000) -> list[str]:
    found = (document for file in stdlib_files() for document in file.documents(Reading()))
    whole = [document.text for document in found if isinstance(document, Document)]
    return [text[i : i + characters] for text in whole for i in range(0, len(text), characters)]


def write(path: Path, megabytes: int) -> int:
    """Writes text of a given size; returns its UTF-8 bytes."""
    size = copy = 0
    pieces = texts()
    with path.open("w") as file:
        json_lines = path.suffix == ".jsonl"
        while size < megabytes * 1e6:
            for number, text in enumerate(pieces):
                document = f"# {copy} {number}\n{text}"
                file.write(json.dumps({"text": document}) + "\n" if json_lines else document + SEPARATOR)
                size += len(document.encode())
                if size >= megabytes * 1e6:
                    break
            copy += 1
    return size


def prepare_here(source: Path, tokenizer: Path, threads: int, holdout: Holdout) -> float:
    """Prepares a dataset in this process; returns the seconds."""
    with tempfile.TemporaryDirectory(dir=source.parent) as folder:
        begun = time.perf_counter()
        prepare(
            [str(source)],
            Path(folder) / "set",
            reading=Reading(separator=SEPARATOR if source.suffix == ".txt" else None),
            holdout=holdout,
            recipe=TokenizerRecipe(tokenizer=str(tokenizer)),
            output=Output(workers=threads),
            console=Terminal(io.StringIO()),
        )
        return time.perf_counter() - begun


def prepare_alone(source: Path, *options: str) -> tuple[float, float]:
    """Prepares a dataset in a new process; returns seconds and peak MiB."""
    with tempfile.TemporaryDirectory(dir=source.parent) as folder:
        command = [
            "data",
            "prepare",
            str(source),
            "--root",
            f"{folder}/set",
            "--val_documents",
            "50",
            *options,
        ]
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, *command], capture_output=True, text=True, check=True
        )
    seconds, peak = done.stdout.split()[-2:]
    return float(seconds), float(peak)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--gigabyte", action="store_true", help="also measure the peak memory for 1 GB")
    settings = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = {"threads": settings.threads, **measure(Path(folder), settings)}
    print(json.dumps(results, indent=2))


def measure(folder: Path, settings: argparse.Namespace) -> dict[str, object]:
    results: dict[str, object] = {}
    sources = {kind: folder / f"text.{kind}" for kind in ("jsonl", "txt")}
    for source in sources.values():
        size = write(source, settings.megabytes) / 1e6
    for preset in ("lossless", "challenge"):
        tokenizer = train_tokenizer(texts()[::10], TokenizerRecipe(preset=preset, vocab_size=1024))
        model = folder / f"{preset}.model"
        model.write_bytes(tokenizer.to_bytes())
        processor = SentencePieceProcessor(model_file=str(model))
        bare: list[float] = []
        variants = {
            "jsonl, first 50 held out": (sources["jsonl"], Holdout(val_documents=50)),
            "txt, first 50 held out": (sources["txt"], Holdout(val_documents=50)),
            "jsonl, 0.2 % held out by hash": (sources["jsonl"], Holdout(val_fraction=0.002)),
        }
        ours: dict[str, list[float]] = {kind: [] for kind in variants}
        for _ in range(settings.rounds):
            documents = [json.loads(line)["text"] for line in sources["jsonl"].open()]
            begun = time.perf_counter()
            processor.encode(documents, return_type="numpy", num_threads=settings.threads)
            bare.append(time.perf_counter() - begun)
            del documents
            for kind, (source, holdout) in variants.items():
                ours[kind].append(prepare_here(source, model, settings.threads, holdout))
        results[preset] = {"megabytes": size, "bare_mb_per_second": size / median(bare), "bare_seconds": bare}
        for kind, seconds in ours.items():
            ratio = median(one / other for one, other in zip(bare, seconds, strict=True))
            results[f"{preset}, {kind}"] = {
                "mb_per_second": size / median(seconds),
                "ratio_to_bare": ratio,
                "seconds": seconds,
            }
    source = sources["jsonl"]
    for megabytes in (10, 1000) if settings.gigabyte else (10,):
        write(source, megabytes)
        seconds, peak = prepare_alone(source, "--workers", str(settings.threads))
        results[f"train_and_prepare_{megabytes}_mb"] = {"seconds": seconds, "peak_mib": peak}
    return results


if __name__ == "__main__":
    main()
