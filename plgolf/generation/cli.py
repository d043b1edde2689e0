"""``plgolf generate``: text as it is written."""

import sys
from collections.abc import Iterator

from jsonargparse import Namespace

from plgolf.arguments import SettingsParser
from plgolf.console import printable
from plgolf.errors import UserError

_PROMPT = "--prompt"


def parsed(words: list[str]) -> Namespace:
    """Parses the command line.

    Args:
        words: what comes after ``plgolf generate``.

    Returns:
        The settings.

    Raises:
        UserError: there is a mistake of the user's.
    """
    # As it is: a parser would take a text for YAML.
    rest, prompt = _without_prompt(words)
    settings = parser().parse(rest if words else ["--help"])
    settings.prompt = prompt
    return settings


def parser() -> SettingsParser:
    """Returns the parser of ``plgolf generate``."""
    parser = SettingsParser(
        prog="plgolf generate",
        description="Write text with an artifact. The same seed and settings give the same text.",
        allow_abbrev=False,
    )
    parser.add_argument("--artifact", type=str, required=True, help="file, such as model.int8.ptz")
    parser.add_argument(
        _PROMPT, type=str, default="", help="text to go on from; - reads it from stdin; may be empty"
    )
    parser.add_argument("--max_tokens", type=int, default=256, help="the most tokens to write")
    parser.add_argument(
        "--temperature", type=float, default=0.8, help="below 1 the likely becomes likelier; 0 is greedy"
    )
    parser.add_argument("--top_k", type=int | None, default=None, help="choose among so many tokens")
    parser.add_argument(
        "--top_p", type=float, default=1.0, help="choose among the likeliest that together have this much"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the first sample; the next has the next")
    parser.add_argument("--samples", type=int, default=1, help="how many texts")
    parser.add_argument(
        "--tokenizer",
        type=str | None,
        default=None,
        help="the tokenizer's file; by default the one in the artifact or beside it",
    )
    parser.add_argument(
        "--seq_len",
        type=int | None,
        default=None,
        help="tokens seen at once; by default what the model was trained on",
    )
    return parser


def _without_prompt(words: list[str]) -> tuple[list[str], str]:
    rest, prompt, given = [], "", iter(words)
    for word in given:
        if word == _PROMPT:
            try:
                prompt = next(given)
            except StopIteration:
                raise UserError(f"{_PROMPT} must be followed by a text") from None
        elif word.startswith(f"{_PROMPT}="):
            prompt = word.removeprefix(f"{_PROMPT}=")
        else:
            rest.append(word)
    return rest, prompt


def run(settings: Namespace) -> int:
    """Writes the texts to stdout.

    Args:
        settings: what ``parsed`` returned.

    Returns:
        The exit status, 0.

    Raises:
        UserError: there is a mistake of the user's.
    """
    from plgolf.generation.language_model import load_artifact  # noqa: PLC0415 (slow)
    from plgolf.generation.sampling import Sampling  # noqa: PLC0415 (slow)

    if settings.samples < 1:
        raise UserError(f"samples must be at least 1, got {settings.samples}")
    sampling = Sampling(temperature=settings.temperature, top_k=settings.top_k, top_p=settings.top_p)
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
