"""The entry point of packed code: ``python -m plgolf fit -c config.yaml``, in the folder of ``code.tar.bz2``.

It builds a run from a complete configuration with LightningCLI alone. What ``plgolf fit`` adds is left out:
help, suggestions, the record of overrides, samples, checkpoints, and progress in other styles than the
reference's.
"""

import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger

from plgolf.artifact import read_artifact
from plgolf.errors import RunError, UserError
from plgolf.training import (
    ArtifactExport,
    CompileWarmup,
    ConsoleLog,
    GolfModule,
    PeerWatch,
    ShardDataModule,
    TrainClock,
)
from plgolf.training.command.quiet import quiet_libraries
from plgolf.training.finish.provenance import Provenance

CALLBACKS: dict[str, type[Callback]] = {
    "clock": TrainClock,
    "warmup": CompileWarmup,
    "export": ArtifactExport,
    "peers": PeerWatch,
    "console": ConsoleLog,
}
"""Callbacks of every packed run, by their group of settings."""


class PackedRun(LightningCLI):
    """A trainer, a module and its data from a complete configuration; nothing is run yet.

    Args:
        settings: command line words: ``-c config.yaml`` and overrides such as ``--data.root=FOLDER``.
    """

    def __init__(self, settings: Sequence[str]) -> None:
        super().__init__(
            GolfModule,
            ShardDataModule,
            save_config_callback=None,
            args=list(settings),
            run=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        for name, callback in CALLBACKS.items():
            parser.add_lightning_class_args(callback, name)
        parser.link_arguments("model.gpt.vocab_size", "data.vocab_size")
        parser.add_argument("--ckpt_path", type=str | None, default=None)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.config = parser.parse_args(args)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        settings = self.config_init.trainer
        if settings.logger in (None, True):
            kwargs["logger"] = CSVLogger(settings.default_root_dir, name="logs")
        return super().instantiate_trainer(**kwargs, enable_checkpointing=False)

    def start(self, command: str) -> None:
        """Trains and exports, or scores the artifact ``ckpt_path``."""
        settings = self.config
        if command == "fit":
            self.config_init.export.provenance = Provenance(
                recipe=[str(recipe) for recipe in settings.config or []],
                seed=settings.seed_everything,
                config=self.parser.dump(settings, skip_none=False),
            )
            self.trainer.fit(self.model, datamodule=self.datamodule)
        elif settings.ckpt_path is None:
            raise UserError("ckpt_path must be an artifact to validate")
        else:
            self.model.gpt = read_artifact(settings.ckpt_path).gpt()
            self.trainer.validate(self.model, datamodule=self.datamodule, verbose=False)


def main() -> NoReturn:
    """Runs ``fit`` or ``validate`` with the process's command line."""
    command, *settings = sys.argv[1:] or ["none"]
    quiet_libraries()
    try:
        if command not in ("fit", "validate"):
            raise UserError(f"the first word must be fit or validate, got {command:.100}")
        PackedRun(settings).start(command)
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("plgolf."):
            raise
        sys.exit(f"error: {error.name} is not in this packed code: the run that packed it did not need it")
    except (UserError, RunError) as error:
        sys.exit(f"error: {error}")
    sys.exit()
