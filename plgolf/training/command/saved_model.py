"""Settings of ``plgolf validate`` that come from the file to score."""

import inspect
from collections.abc import Sequence

from jsonargparse import Namespace, dict_to_namespace

from plgolf.config import config_from_dict, config_to_dict
from plgolf.errors import UserError
from plgolf.model import GPTConfig
from plgolf.training.checkpoints.compare import flat
from plgolf.training.checkpoints.files import CheckpointFiles, Saved
from plgolf.training.datamodule import ShardDataModule

_MODEL = "model.gpt."
_DEFAULT_SEQ_LEN = inspect.signature(ShardDataModule).parameters["seq_len"].default


def take_model(settings: Namespace, path: str, files: CheckpointFiles, *, flags: Sequence[str]) -> Saved:
    """Sets the architecture to that of a file, and the sequence length if nothing else sets it.

    A recipe may describe another model, since one recipe serves several files; a flag is a request, which
    must not be lost.

    Args:
        settings: of ``validate``; changed in place.
        path: a checkpoint or an artifact.
        files: reads it, and keeps an artifact for the trainer.
        flags: the command line without configuration files.

    Raises:
        UserError: the file is malformed, or a flag asks for another architecture than it has.
    """
    saved = files.read_saved(path, config_from_dict(GPTConfig, settings.model.gpt.as_dict()))
    _check_flags(flags, settings.model.gpt, saved.config, path)
    settings.model.gpt = dict_to_namespace(config_to_dict(saved.config))
    settings.data.vocab_size = saved.config.vocab_size
    settings.data.seq_len = settings.data.seq_len or saved.seq_len or _DEFAULT_SEQ_LEN
    return saved


def _check_flags(flags: Sequence[str], asked: Namespace, saved: GPTConfig, path: str) -> None:
    wanted, given = flat(asked.as_dict()), flat(config_to_dict(saved))
    for flag in flags:
        name = flag.partition("=")[0].removeprefix("--")
        if not name.startswith(_MODEL):
            continue
        key = name.removeprefix(_MODEL)
        for leaf in (leaf for leaf in wanted if leaf == key or leaf.startswith(f"{key}.")):
            # The value ``auto`` fits whatever the file has.
            if wanted[leaf] not in (given.get(leaf), "auto"):
                raise UserError(
                    f"{_MODEL}{leaf} must be left alone, {path} decides ({given.get(leaf)}), "
                    f"got {wanted[leaf]}"
                )
