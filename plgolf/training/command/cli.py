"""``plgolf fit`` and ``plgolf validate``: LightningCLI, artifacts as checkpoints, a record of every run."""

import errno
import re
from pathlib import Path
from typing import Any

from jsonargparse import dict_to_namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only

from plgolf.arguments import SettingsParser
from plgolf.config import config_from_dict, config_to_dict
from plgolf.errors import RunError, UserError
from plgolf.model import GPTConfig
from plgolf.training import (
    ArtifactExport,
    CompileWarmup,
    ConsoleLog,
    GolfModule,
    PeerWatch,
    RunCheckpoint,
    SampleLog,
    ShardDataModule,
    TrainClock,
)
from plgolf.training.checkpoints.files import CheckpointFiles
from plgolf.training.checkpoints.resume import check_resume
from plgolf.training.checkpoints.run_checkpoint import LIGHTNINGS_WORDS, find_checkpoint
from plgolf.training.command.allowed_classes import check_allowed_classes
from plgolf.training.command.parser import GolfParser, overrides
from plgolf.training.command.profiling import profiler_named
from plgolf.training.command.quiet import quiet_libraries
from plgolf.training.finish.provenance import Provenance
from plgolf.training.health.peers import end_with_launcher
from plgolf.training.logs.console.log import expand_console_flag
from plgolf.training.logs.run_config import SaveRunConfig
from plgolf.version import __version__

_REFUSALS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO),
    *(errno.EACCES, errno.ENAMETOOLONG),
)
"""What a file system says no with, to a logger for example."""


class GolfCLI(LightningCLI):
    """``plgolf fit`` and ``plgolf validate``."""

    def __init__(self, args: list[str], *, parent_pid: int) -> None:
        self.arguments = args
        self.parent_pid = parent_pid
        self.files = CheckpointFiles()
        strict = {"allow_abbrev": False}
        super().__init__(
            GolfModule,
            ShardDataModule,
            save_config_callback=SaveRunConfig,
            save_config_kwargs={"save_to_log_dir": False},
            trainer_defaults={
                "default_root_dir": "checkpoints/run",
                "max_epochs": -1,
                "num_sanity_val_steps": 0,
                "enable_progress_bar": False,
                "enable_model_summary": False,
                "use_distributed_sampler": False,
                # One graph for validation, inside a fit and alone.
                "inference_mode": False,
            },
            seed_everything_default=1337,
            parser_kwargs={
                **strict,
                "prog": "plgolf",
                "version": __version__,
                "description": "Train the best small language model within a byte and a time budget.",
                "fit": {**strict, "description": "Train a model, export it and score the file."},
                "validate": {**strict, "description": "Score a checkpoint or an artifact."},
            },
            parser_class=GolfParser,
            args=args,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        return {
            "fit": {"model", "train_dataloaders", "val_dataloaders", "datamodule"},
            "validate": {"model", "dataloaders", "datamodule", "verbose"},
        }

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(TrainClock, "clock")
        parser.add_lightning_class_args(CompileWarmup, "warmup")
        parser.add_lightning_class_args(ArtifactExport, "export")
        parser.add_lightning_class_args(RunCheckpoint, "checkpoint")
        parser.add_lightning_class_args(PeerWatch, "peers")
        parser.add_lightning_class_args(ConsoleLog, "console")
        parser.add_lightning_class_args(SampleLog, "samples")
        parser.link_arguments("model.gpt.vocab_size", "data.vocab_size")
        # Said, so that its settings are found in the help and set without naming it.
        parser.set_defaults({"model.schedule": {"class_path": "plgolf.optim.Warmdown"}})

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        assert isinstance(parser, GolfParser)
        self.config = parser.parse(args)
        check_allowed_classes(self.config[self.config.subcommand])

    def _prepare_subcommand_parser(
        self, klass: Any, subcommand: str, **kwargs: Any
    ) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        assert isinstance(parser, GolfParser)
        parser.finish(subcommand)
        return parser

    def _parse_ckpt_path(self) -> None:
        """Finds the checkpoint; one that is to be validated says of what architecture it is."""
        settings = self.config[self.config.subcommand]
        folder = Path(settings.checkpoint.dir or settings.trainer.default_root_dir)
        path = find_checkpoint(folder, settings.ckpt_path, settings.get("resume"))
        settings.ckpt_path = path
        if self.config.subcommand == "validate" and path not in LIGHTNINGS_WORDS:
            if not path:
                raise UserError("ckpt_path must name the checkpoint or artifact to validate")
            described = config_from_dict(GPTConfig, settings.model.gpt.as_dict())
            saved = self.files.saved_architecture(path, described)
            settings.model.gpt = dict_to_namespace(config_to_dict(saved))
            settings.data.vocab_size = saved.vocab_size

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except (ValueError, ModuleNotFoundError) as error:
            missing = re.search(r"Requirement .* not met.*|No module named .*", str(error))
            if isinstance(error, UserError) or not missing:
                raise
            raise UserError(f"a class of the configuration needs more: {missing[0]}") from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        settings = self._get(self.config_init, "trainer")
        if settings.logger in (None, True):
            kwargs["logger"] = CSVLogger(settings.default_root_dir, name="logs")
        if isinstance(settings.profiler, str):
            kwargs["profiler"] = profiler_named(settings.profiler, settings.default_root_dir)
        plugins = settings.plugins or []
        kwargs["plugins"] = [*(plugins if isinstance(plugins, list) else [plugins]), self.files]
        try:
            return super().instantiate_trainer(**kwargs)
        except (ValueError, TypeError) as error:  # An unknown strategy, accelerator, precision, device.
            raise UserError(f"trainer: {error}") from error

    def _instantiate_trainer(self, config: Any, callbacks: list[Any]) -> Trainer:
        if config.get("enable_checkpointing") is False:
            callbacks = [callback for callback in callbacks if not isinstance(callback, RunCheckpoint)]
        return super()._instantiate_trainer(config, callbacks)

    def _run_subcommand(self, subcommand: str) -> None:
        end_with_launcher(self.trainer, self.parent_pid)
        # Before Lightning makes a file, or a process for every rank: one mistake is one line.
        self.model.check(self.trainer)
        if subcommand == "fit":
            TrainClock.of(self.trainer).check(self.trainer)
            self.datamodule.plan_for(self.trainer)
        if self.trainer.is_global_zero:
            self.datamodule.build()
            self.datamodule.check(training=subcommand == "fit", world_size=self.trainer.world_size)
            if subcommand == "fit" and self.config.fit.ckpt_path not in (None, *LIGHTNINGS_WORDS):
                check_resume(
                    self.config.fit.ckpt_path,
                    config=self.model.gpt.config,
                    data=self.datamodule.state_dict(),
                    max_steps=self.trainer.max_steps,
                    allowed=RunCheckpoint.allowed_changes(self.trainer),
                )
        super()._run_subcommand(subcommand)

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        return {**kwargs, "verbose": False} if subcommand == "validate" else kwargs

    def before_fit(self) -> None:
        settings = self.config.fit
        self._export.provenance = Provenance(
            recipe=[str(path) for path in settings.config or []],
            overrides=overrides(self.arguments),
            seed=settings.seed_everything,
            config=self._parser("fit").dump(settings, skip_none=False),
        )

    def after_fit(self) -> None:
        result = self._export.result
        problem = result.get("code", {}).get("error")
        if problem:
            raise RunError(
                f"the packed code failed its check: {problem} (everything was written; see result.json)"
            )
        if result and not result["within_budget"]:
            raise UserError(
                f"total_bytes must be at most {result['budget_bytes']}, got {result['total_bytes']} "
                "(everything was written; see result.json)"
            )

    @property
    def _export(self) -> ArtifactExport:
        export = self._get(self.config_init, "export")
        assert isinstance(export, ArtifactExport)
        return export


class _ParserReady(Exception):  # noqa: N818 (no error)
    """There is a parser; nothing is to be parsed."""


class _ParserOnly(GolfCLI):
    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        raise _ParserReady(parser)


def commands() -> dict[str, SettingsParser]:
    """Returns the parsers of the commands, for who wants to know what there is to set."""
    try:
        _ParserOnly([], parent_pid=0)
    except _ParserReady as ready:
        parser: SettingsParser = ready.args[0]
    return parser.commands


def run(words: list[str], *, parent_pid: int) -> None:
    """Runs a subcommand.

    Args:
        words: the command line after ``plgolf``.
        parent_pid: process that has started this one.

    Raises:
        UserError: there is a mistake of the user's; it says on which rank if that is not the first.
        RunError: the run cannot go on.
        StoppedBySignal: a signal has ended it.
    """
    quiet_libraries()
    try:
        GolfCLI(expand_console_flag(words), parent_pid=parent_pid)
    except (UserError, MisconfigurationException) as error:
        rank = getattr(rank_zero_only, "rank", 0)
        raise UserError(f"rank {rank}: {error}" if rank else str(error)) from error
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
        raise UserError(f"{error.filename or 'a file of the run'}: {error.strerror}") from error
