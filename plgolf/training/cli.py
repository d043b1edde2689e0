"""``plgolf fit`` and ``plgolf validate``: LightningCLI, artifacts as checkpoints, a record of every run."""

import logging
import warnings
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import dict_to_namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only

from plgolf.arguments import OneLineErrors
from plgolf.artifact import SUFFIX
from plgolf.config import config_from_dict, config_to_dict
from plgolf.errors import UserError
from plgolf.files import write_whole
from plgolf.model import GPTConfig
from plgolf.training import (
    ArtifactExport,
    CompileWarmup,
    ConsoleLog,
    GolfModule,
    ShardDataModule,
    TrainClock,
)
from plgolf.training.allowed_classes import check_allowed_classes
from plgolf.training.checkpoint_io import ArtifactIO, read_checkpoint, saved_architecture
from plgolf.training.export import Provenance
from plgolf.training.module import check_same_model
from plgolf.version import __version__

_KEYWORDS = ("best", "last", "hpc")
"""What Lightning takes for a ckpt_path besides a file."""


class SaveRunConfig(SaveConfigCallback):
    """Writes the complete configuration of a fit to ``config.yaml`` in the run's folder, and to loggers."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        text = self.parser.dump(self.config, skip_none=False)
        write_whole(Path(trainer.default_root_dir) / "config.yaml", text.encode())
        for logger in trainer.loggers:
            logger.log_hyperparams(yaml.safe_load(text))


class GolfParser(OneLineErrors, LightningArgumentParser):
    """LightningCLI's parser with short errors."""


class GolfCLI(LightningCLI):
    """``plgolf fit`` and ``plgolf validate``."""

    def __init__(self, args: list[str]) -> None:
        self.arguments = args
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
                "fit": dict(strict),
                "validate": dict(strict),
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
        parser.add_lightning_class_args(ConsoleLog, "console")
        parser.link_arguments("model.gpt.vocab_size", "data.vocab_size")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.config = parser.parse_args(args)
        check_allowed_classes(self.config[self.config.subcommand])

    def _parse_ckpt_path(self) -> None:
        """Takes the architecture from the file that is to be validated."""
        settings = self.config[self.config.subcommand]
        path = settings.get("ckpt_path")
        if not path and self.config.subcommand == "validate":
            raise UserError("ckpt_path must name the checkpoint or artifact to validate")
        if not path or path in _KEYWORDS:
            return
        if not Path(path).is_file():
            raise UserError(f"{path}: no such checkpoint (ckpt_path)")
        described = config_from_dict(GPTConfig, settings.model.gpt.as_dict())
        if self.config.subcommand == "fit":
            _check_resume(path, described, settings.trainer.max_steps)
            return
        saved = saved_architecture(path, described)
        settings.model.gpt = dict_to_namespace(config_to_dict(saved))
        settings.data.vocab_size = saved.vocab_size

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        settings = self._get(self.config_init, "trainer")
        if settings.logger in (None, True):
            kwargs["logger"] = CSVLogger(settings.default_root_dir, name="logs")
        callbacks = settings.callbacks or []
        if settings.enable_checkpointing is not False and not any(
            isinstance(callback, ModelCheckpoint) for callback in callbacks
        ):
            last = ModelCheckpoint(settings.default_root_dir, "last", enable_version_counter=False)
            kwargs["callbacks"] = [*callbacks, last]
        plugins = settings.plugins or []
        kwargs["plugins"] = [*(plugins if isinstance(plugins, list) else [plugins]), ArtifactIO()]
        try:
            return super().instantiate_trainer(**kwargs)
        except ValueError as error:  # An unknown strategy, accelerator or precision.
            raise UserError(f"trainer: {error}") from error

    def _run_subcommand(self, subcommand: str) -> None:
        # Before Lightning makes a file, or a process for every rank: one mistake is one line.
        self.model.check(self.trainer)
        if subcommand == "fit":
            TrainClock.of(self.trainer).check(self.trainer)
            self.datamodule.plan_for(self.trainer)
        if self.trainer.is_global_zero:
            self.datamodule.build()
            self.datamodule.check(training=subcommand == "fit", world_size=self.trainer.world_size)
        super()._run_subcommand(subcommand)

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        return {**kwargs, "verbose": False} if subcommand == "validate" else kwargs

    def before_fit(self) -> None:
        settings = self.config.fit
        self._export.provenance = Provenance(
            recipe=[str(path) for path in settings.config or []],
            overrides=_overrides(self.arguments),
            seed=settings.seed_everything,
            config=self._parser("fit").dump(settings, skip_none=False),
        )

    def after_fit(self) -> None:
        result = self._export.result
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


def _check_resume(path: str, described: GPTConfig, max_steps: int) -> None:
    """Says what keeps a fit from going on, before it has overwritten anything of the earlier one."""
    if path.endswith(SUFFIX):
        raise UserError(f"{path}: fit cannot go on from an artifact, it holds no optimizer state")
    checkpoint = read_checkpoint(path)
    check_same_model(checkpoint, described)
    if 0 <= max_steps <= checkpoint["global_step"]:
        raise UserError(
            f"trainer.max_steps must exceed the {checkpoint['global_step']} steps of {path}, got {max_steps}"
        )


def _overrides(arguments: list[str]) -> list[str]:
    """Leaves out the subcommand and the configuration files."""
    rest, skip = [], False
    for argument in arguments[1:]:
        if skip:
            skip = False
        elif argument in ("-c", "--config"):
            skip = True
        elif not argument.startswith(("--config=", "-c=")):
            rest.append(argument)
    return rest


def _quiet_libraries() -> None:
    """Keeps the libraries' notices to their own developers off the console."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
    warnings.filterwarnings("ignore", message=r"(?s).*deprecated in v4\.", category=DeprecationWarning)


def run(words: list[str]) -> None:
    """Runs a subcommand.

    Args:
        words: the command line after ``plgolf``.

    Raises:
        UserError: there is a mistake of the user's; it says on which rank if that is not the first.
    """
    _quiet_libraries()
    try:
        GolfCLI(words)
    except (UserError, MisconfigurationException) as error:
        rank = getattr(rank_zero_only, "rank", 0)
        raise UserError(f"rank {rank}: {error}" if rank else str(error)) from error
