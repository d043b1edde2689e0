"""``plgolf generate``: prints text while it is generated."""

import sys
from collections.abc import Iterator
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
    """Parses the command line.

    Args:
        words: what comes after ``plgolf generate``.

    Returns:
        The settings.

    Raises:
        UserError: a flag is wrong.
    """
    # Taken out first: the parser would read a text as YAML.
    rest, prompt = _without_prompt(words)
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
    parser.add_argument(_PROMPT, type=str, default="", help="text to continue; - reads it from stdin")
    parser.add_argument("--max_tokens", type=int, default=256, help="tokens to generate, at most")
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.8,
        help="sampling temperature; 0 always takes the likeliest token",
    )
    parser.add_argument("--top_k", type=int | None, default=None, help="sample from the k likeliest tokens")
    parser.add_argument(
        "--top_p",
        type=float,
        default=1.0,
        help="nucleus sampling: the smallest set of tokens with this total probability",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the first text; the next uses the next")
    parser.add_argument("--samples", type=int, default=1, help="number of texts")
    parser.add_argument(
        "--tokenizer",
        type=str | None,
        default=None,
        help="tokenizer file; by default the one in the artifact or beside it",
    )
    parser.add_argument(
        "--seq_len",
        type=int | None,
        default=None,
        help="tokens that the model sees at once; by default as in training",
    )
    return parser


def _without_prompt(words: list[str]) -> tuple[list[str], str]:
    rest, prompt, given = [], "", iter(words)
    for word in given:
        if word == _PROMPT:
            try:
                prompt = next(given)
            except StopIteration:
                raise UserError(f"{_PROMPT} must have a value") from None
        elif word.startswith(f"{_PROMPT}="):
            prompt = word.removeprefix(f"{_PROMPT}=")
        else:
            rest.append(word)
    return rest, prompt


def run(settings: Namespace) -> int:
    """Prints the texts to stdout.

    Args:
        settings: what ``parsed`` returned.

    Returns:
        The exit status, 0.

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
        if settings.samples > 1:
            _write([f"--- sample {sample + 1} of {settings.samples}, seed {seed} ---\n"])
        _write([prompt])
        _write(new)
        _write(["\n"])
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
        raise UserError(
            f"stdin must be UTF-8, got {error.object[error.start]:#x} at {error.start}"
        ) from error


def _write(texts: Iterator[str] | list[str]) -> None:
    try:
        for text in texts:
            sys.stdout.write(printable(text))
            sys.stdout.flush()
    except KeyboardInterrupt:
        sys.stdout.write("\n")
        sys.stdout.flush()
        raise
