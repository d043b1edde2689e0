"""``plgolf generate``: prints text while it is generated."""

import itertools
import sys
from collections.abc import Iterable
from pathlib import Path

from jsonargparse import Namespace

from plgolf.arguments import SettingsParser
from plgolf.console import printable
from plgolf.errors import UserError
from plgolf.files import open_regular

_PROMPT = "--prompt"
_ZIP_START = b"PK\x03\x04"
"""First bytes of a checkpoint: torch.save writes zip files."""


def parsed(words: list[str]) -> Namespace:
    """Parses the words after ``plgolf generate``.

    Raises:
        UserError: a flag is wrong.
    """
    rest, prompt, given = [], "", iter(words)
    for word in given:  # The prompt is taken out first: the parser would read it as YAML.
        flag, equals, text = word.partition("=")
        if flag != _PROMPT:
            rest.append(word)
        elif (value := text if equals else next(given, None)) is None:
            raise UserError(f"{_PROMPT} must have a value")
        else:
            prompt = value
    settings = parser().parse(rest if words else ["--help"])
    settings.prompt = prompt
    return settings


def parser() -> SettingsParser:
    """Returns the parser of ``plgolf generate``."""
    parser = SettingsParser(
        prog="plgolf generate",
        description="Generate text with an artifact. The same seed and settings give the same text.",
        allow_abbrev=False,
    )
    parser.add_argument("--artifact", type=str, required=True, help="artifact, such as model.int8.ptz")
    top_p = "nucleus sampling: the smallest set of tokens with this total probability"
    for flag, kind, default, text in (
        (_PROMPT, str, "", "text to continue; - reads it from stdin"),
        ("--max_tokens", int, 256, "tokens to generate, at most"),
        ("--temperature", float, 0.8, "sampling temperature; 0 always takes the likeliest token"),
        ("--top_k", int | None, None, "sample from the k likeliest tokens"),
        ("--top_p", float, 1.0, top_p),
        ("--seed", int, 0, "seed of the first text; the next uses the next"),
        ("--samples", int, 1, "number of texts"),
        ("--tokenizer", str | None, None, "tokenizer file; by default the one in the artifact or beside it"),
        ("--seq_len", int | None, None, "tokens that the model sees at once; by default as in training"),
    ):
        parser.add_argument(flag, type=kind, default=default, help=text)
    return parser


def run(settings: Namespace) -> int:
    """Prints the texts to stdout and returns the exit status.

    Raises:
        UserError: a setting, the artifact or the prompt is wrong.
    """
    from plgolf.generation.language_model import load_artifact  # noqa: PLC0415 (slow)
    from plgolf.generation.sampling import Sampling  # noqa: PLC0415 (slow)

    if settings.samples < 1:
        raise UserError(f"samples must be at least 1, got {settings.samples}")
    sampling = Sampling(temperature=settings.temperature, top_k=settings.top_k, top_p=settings.top_p)
    _refuse_checkpoint(Path(settings.artifact))
    model = load_artifact(settings.artifact, tokenizer=settings.tokenizer, seq_len=settings.seq_len)
    prompt = _from_stdin() if settings.prompt == "-" else settings.prompt
    for sample in range(settings.samples):
        seed = settings.seed + sample
        new = model.stream(prompt, sampling, max_tokens=settings.max_tokens, seed=seed)
        heading = f"--- sample {sample + 1} of {settings.samples}, seed {seed} ---\n"
        _write(itertools.chain([heading] * (settings.samples > 1), [prompt], new))
    return 0


def _refuse_checkpoint(path: Path) -> None:
    with open_regular(path) as file:
        if file.read(len(_ZIP_START)) == _ZIP_START:
            finish = f"plgolf fit -c {path.parent}/config.yaml --resume=auto"
            raise UserError(
                f"{path}: this is a checkpoint, and generate needs the artifact, model.int8.ptz, "
                f"that a run writes at its end; {finish} finishes an interrupted run"
            )


def _from_stdin() -> str:
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        place = f"{error.object[error.start]:#x} at {error.start}"
        raise UserError(f"stdin must be UTF-8, got {place}") from error


def _write(texts: Iterable[str]) -> None:
    """Writes texts as they come, then ends the line, also after an interruption."""
    try:
        for text in texts:
            sys.stdout.write(printable(text))
            sys.stdout.flush()
        sys.stdout.write("\n")
    except KeyboardInterrupt:
        sys.stdout.write("\n")
        sys.stdout.flush()
        raise
