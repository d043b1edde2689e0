"""``plgolf data``: makes, checks and shows datasets."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Literal, TypeVar

from jsonargparse import Namespace

from plgolf.arguments import SettingsParser
from plgolf.console import Terminal
from plgolf.corpus.building import Output
from plgolf.corpus.documents import Reading
from plgolf.corpus.download import REPO, TRAIN_SHARDS, download
from plgolf.corpus.inspection import describe, draw_lengths, inspect
from plgolf.corpus.prepare import prepare
from plgolf.corpus.splitting import Holdout
from plgolf.corpus.tokenizer_training import TokenizerRecipe
from plgolf.corpus.verify import verify
from plgolf.errors import UserError

T = TypeVar("T")


def run(words: list[str]) -> int:
    """Runs the subcommand in the words after ``plgolf data``.

    Returns:
        The exit status: 1 if a dataset fails its verification, else 0.

    Raises:
        UserError: an argument or a file is refused.
    """
    settings = parser().parse(words or ["--help"])
    try:
        return _COMMANDS[settings.subcommand][2](settings[settings.subcommand])
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(f"{error.filename or settings.subcommand}: {error.strerror or error}") from error


def parser() -> SettingsParser:
    """Returns the parser of all subcommands."""
    parser = SettingsParser(
        prog="plgolf data", description="Make, check and show datasets.", allow_abbrev=False
    )
    subcommands = parser.add_subcommands()
    for name, (description, add_arguments, _) in _COMMANDS.items():
        subparser = SettingsParser(description=description, allow_abbrev=False)
        add_arguments(subparser)
        subcommands.add_subcommand(name, subparser, help=description)
    return parser


def _prepare_arguments(parser: SettingsParser) -> None:
    parser.add_argument("-c", "--config", action="config", help="YAML file of these options")
    parser.add_argument(
        "inputs", nargs="+", help="files, folders, patterns such as 'text/**/*.txt', or - for stdin"
    )
    parser.add_argument("--root", type=str, required=True, help="folder of the dataset")
    parser.add_argument(
        "--on_error",
        type=Literal["stop", "skip"],
        default="stop",
        help="what to do at a refused document; stop names its file and line, skip counts it",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the dataset in root when the new one is complete"
    )
    parser.add_class_arguments(Reading, skip={"separator"})
    # A plain string, because "---" would be parsed as YAML for null.
    parser.add_argument(
        "--separator",
        type=str,
        default=None,
        help="text between the documents of a text file, such as \\n\\n; a file is one document by default; "
        "one that begins with a dash needs an equals sign: --separator=---",
    )
    parser.add_class_arguments(Holdout, skip={"val_inputs"})
    parser.add_argument(
        "--val_inputs",
        nargs="+",
        default=[],
        help="files, folders or patterns of the validation documents; all other documents are for training",
    )
    parser.add_class_arguments(TokenizerRecipe)
    parser.add_class_arguments(Output, skip={"shuffle"})
    parser.add_argument("--shuffle", action="store_true", help="shuffle the training documents by the seed")


def _prepare(settings: Namespace) -> int:
    if settings.separator is not None:  # A shell passes a backslash and a letter.
        for written, meant in (("\\r", "\r"), ("\\n", "\n"), ("\\t", "\t")):
            settings.separator = settings.separator.replace(written, meant)
    settings.val_inputs = _names(settings.val_inputs)
    prepare(
        _names(settings.inputs),
        Path(settings.root),
        reading=_built(Reading, settings),
        holdout=_built(Holdout, settings),
        recipe=_built(TokenizerRecipe, settings),
        output=_built(Output, settings),
        on_error=settings.on_error,
        overwrite=settings.overwrite,
        console=Terminal(),
    )
    return 0


def _names(value: str | list[str]) -> list[str]:
    """Returns a list of names; a YAML file may have a single one, and ``--val_inputs=[a.gz]`` is a list."""
    names = []
    for name in [value] if isinstance(value, str) else value:
        is_list = name.startswith("[") and name.endswith("]") and not Path(name).exists()
        names += [part.strip().strip("'\"") for part in name[1:-1].split(",")] if is_list else [name]
    return names


def _built(cls: type[T], settings: Namespace) -> T:
    return cls(**{field.name: settings[field.name] for field in fields(cls)})  # type: ignore[arg-type]


def _root_arguments(parser: SettingsParser) -> None:
    parser.add_argument("root", type=str, help="folder of the dataset")
    parser.add_argument(
        "--tokenizer",
        type=str | None,
        default=None,
        help="file of the tokenizer; by default the one in the dataset",
    )


def _verify(settings: Namespace) -> int:
    terminal = Terminal()
    checks = verify(Path(settings.root), tokenizer=_tokenizer(settings), console=terminal)
    answers = {True: "ok", False: "FAILED", None: "-"}
    for check in checks:
        terminal.say(f"{answers[check.passed]:<8}{check.name:<24}{check.detail}")
    failed, total = sum(check.passed is False for check in checks), len(checks)
    terminal.say(f"{failed} of {total} checks failed" if failed else f"all {total} checks passed")
    return int(failed > 0)


def _tokenizer(settings: Namespace) -> Path | None:
    return Path(settings.tokenizer) if settings.tokenizer else None


def _inspect_arguments(parser: SettingsParser) -> None:
    _root_arguments(parser)
    parser.add_argument(
        "--picture",
        type=str | None,
        default=None,
        help="draw the lengths of documents into a .png, .svg or .pdf",
    )
    parser.add_argument(
        "--bos_id",
        type=int | None,
        default=None,
        help="id that begins each document, for shards without a tokenizer: 50256 for GPT-2",
    )


def _inspect(settings: Namespace) -> int:
    view = inspect(Path(settings.root), tokenizer=_tokenizer(settings), bos_id=settings.bos_id)
    terminal = Terminal()
    for line in describe(view):
        terminal.say(line)
    if settings.picture:
        draw_lengths(view, Path(settings.picture))
        terminal.say(f"drawn into {settings.picture}")
    return 0


def _download_arguments(parser: SettingsParser) -> None:
    parser.add_argument("variant", type=str, help="dataset, or the end of its name: sp1024, sp4096, byte260")
    parser.add_argument(
        "--train_shards",
        type=int | None,
        default=TRAIN_SHARDS,
        help="number of training shards of 100 million tokens; null for all",
    )
    parser.add_argument("--root", type=str, default="data", help="folder of datasets/<name> and tokenizers")
    parser.add_argument("--repo", type=str, default=REPO, help="dataset repository on the hub")
    parser.add_argument(
        "--remote_root", type=str, default="datasets", help="folder of manifest.json in the repository"
    )
    parser.add_argument("--revision", type=str, default="main", help="branch, tag or commit")


def _download(settings: Namespace) -> int:
    options = {key: settings[key] for key in ("train_shards", "repo", "remote_root", "revision")}
    download(settings.variant, root=Path(settings.root), console=Terminal(), **options)
    return 0


_COMMANDS: dict[str, tuple[str, Callable[[SettingsParser], None], Callable[[Namespace], int]]] = {
    "prepare": (
        "Make token shards from text: files or folders of plain text, JSON, CSV, Parquet; .gz .bz2 .xz .zst.",
        _prepare_arguments,
        _prepare,
    ),
    "download": (
        "Download one of the published datasets of the challenge.",
        _download_arguments,
        _download,
    ),
    "verify": (
        "Check a dataset and print a table; exit status 1 if a check fails.",
        _root_arguments,
        _verify,
    ),
    "inspect": ("Show what is in a dataset, also without a manifest.", _inspect_arguments, _inspect),
}
