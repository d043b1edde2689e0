"""Commands ``plgolf fit`` and ``plgolf validate``, on LightningCLI."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from plgolf.arguments import SettingsParser
from plgolf.errors import RunError, UserError
from plgolf.evaluate import Evaluator
from plgolf.training import GolfModule, RunCheckpoint, ShardDataModule, WeightAverages
from plgolf.training.checkpoints.compare import check_same_tokenizer
from plgolf.training.checkpoints.files import CheckpointFiles, Saved
from plgolf.training.checkpoints.resume import check_resume
from plgolf.training.checkpoints.run_checkpoint import find_checkpoint
from plgolf.training.command.allowed_classes import check_allowed_classes
from plgolf.training.command.evaluated import EvaluatedModule, add_evaluator
from plgolf.training.command.groups import GROUPS
from plgolf.training.command.leaves import check_leaves, mounted_at
from plgolf.training.command.loggers import profiler_named, run_loggers
from plgolf.training.command.one_line import one_line_errors
from plgolf.training.command.parser import GolfParser, overrides
from plgolf.training.command.quiet import quiet_libraries
from plgolf.training.command.refused import check_settings, with_plain_enums
from plgolf.training.command.saved_model import take_model
from plgolf.training.finish.more_scores import check as check_evaluators
from plgolf.training.finish.provenance import Provenance
from plgolf.training.health.meeting import announce_waiting
from plgolf.training.health.monitors import check_monitors
from plgolf.training.health.peers import end_with_launcher
from plgolf.training.logs.console.log import expand_console_flag
from plgolf.training.logs.run_config import SaveRunConfig
from plgolf.training.run import Run
from plgolf.training.unsupported import check_callbacks
from plgolf.version import __version__


class GolfCLI(LightningCLI):
    """Parses, checks and runs one of the two commands."""

    def __init__(self, args: list[str], *, parent_pid: int) -> None:
        self.files = CheckpointFiles()
        self.arguments = args
        self.parent_pid = parent_pid
        self.saved: Saved | None = None
        """What the file that ``validate`` scores says of its model."""
        super().__init__(
            EvaluatedModule if args[:1] == ["validate"] else GolfModule,
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
                "allow_abbrev": False,
                "prog": "plgolf",
                "version": __version__,
                "description": "Train the best small language model within a byte and a time budget.",
                "fit": {"allow_abbrev": False, "description": "Train a model, export it and score the file."},
                "validate": {"allow_abbrev": False, "description": "Score a checkpoint or an artifact."},
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
        for name, cls in GROUPS.items():
            if issubclass(cls, Callback):
                parser.add_lightning_class_args(cls, name)
            parser.add_instantiator(mounted_at(name), cls)
        parser.link_arguments("model.gpt.vocab_size", "data.vocab_size")
        # A default, so that the help lists its settings and flags set them without its name.
        parser.set_defaults({"model.schedule": {"class_path": "plgolf.optim.Warmdown"}})

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        assert isinstance(parser, GolfParser)
        self.config = parser.parse(args)
        settings = with_plain_enums(self.config[self.config.subcommand])
        check_allowed_classes(settings)
        check_leaves(settings, {**GROUPS, **({"evaluator": Evaluator} if "evaluator" in settings else {})})
        check_settings(settings)

    def _prepare_subcommand_parser(
        self, klass: Any, subcommand: str, **kwargs: Any
    ) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        assert isinstance(parser, GolfParser)
        if subcommand == "validate":
            add_evaluator(parser)
        parser.finish(subcommand)
        if subcommand == "validate":
            parser.set_defaults({"data.seq_len": None})
            parser.describe({"data.seq_len": "tokens in a sequence; null for what the file was trained with"})
        return parser

    def _parse_ckpt_path(self) -> None:
        """Finds the checkpoint; for ``validate`` the file decides the architecture."""
        settings = self.config[self.config.subcommand]
        folder = Path(settings.checkpoint.dir or settings.trainer.default_root_dir)
        path = find_checkpoint(folder, settings.ckpt_path, settings.get("resume"))
        settings.ckpt_path = path
        if self.config.subcommand == "validate":
            if not path:
                raise UserError(
                    "ckpt_path must name the checkpoint or artifact to validate, such as "
                    f"--ckpt_path={folder / 'model.int8.ptz'}"
                )
            self.saved = take_model(settings, path, self.files, flags=overrides(self.arguments))

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        settings = self._get(self.config_init, "trainer")
        training = self.config.subcommand == "fit"
        kwargs["logger"] = run_loggers(settings.logger, settings.default_root_dir, training=training)
        if isinstance(settings.profiler, str):
            kwargs["profiler"] = profiler_named(settings.profiler, settings.default_root_dir)
        plugins = settings.plugins or []
        kwargs["plugins"] = [*(plugins if isinstance(plugins, list) else [plugins]), self.files]
        try:
            return super().instantiate_trainer(**kwargs)
        except UserError:
            raise
        except (ValueError, TypeError) as error:  # An unknown strategy, accelerator, precision, device.
            raise UserError(f"trainer: {error}") from error

    def _instantiate_trainer(self, config: Any, callbacks: list[Any]) -> Trainer:
        if config.get("enable_checkpointing") is False:
            callbacks = [callback for callback in callbacks if not isinstance(callback, RunCheckpoint)]
        averages = [callback for callback in callbacks if isinstance(callback, WeightAverages)]
        # Before the export, which is of what they leave; those that are off take no time.
        used = [callback for callback in averages if callback.is_on]
        callbacks = [*used, *(callback for callback in callbacks if callback not in averages)]
        named = config.get("callbacks") or []
        check_callbacks([*callbacks, *(named if isinstance(named, list) else [named])])
        return super()._instantiate_trainer(config, callbacks)

    def _run_subcommand(self, subcommand: str) -> None:
        end_with_launcher(self.trainer, self.parent_pid)
        # Before Lightning writes a file or starts the other ranks, so that a mistake is one line.
        self.model.check(self.trainer)
        run = Run(self.trainer.callbacks)  # type: ignore[attr-defined]
        if subcommand == "fit":
            run.clock.check(self.trainer)
            self.datamodule.plan_for(self.trainer)
            check_evaluators(self._get(self.config_init, "export").evaluators, self.datamodule.seq_len)
        else:
            evaluator = self._get(self.config_init, "evaluator")
            self.model.evaluate_by(evaluator, seq_len=self.datamodule.seq_len)
        if self.trainer.is_global_zero:
            self.datamodule.build()
            self.datamodule.check(training=subcommand == "fit", world_size=self.trainer.world_size)
            if self.saved:
                saved = {"tokenizer": self.saved.tokenizer_sha256}
                sha256, allowed = self.datamodule.tokenizer.sha256, run.allowed_changes
                try:
                    check_same_tokenizer(saved, sha256, allowed=allowed)
                except UserError as error:
                    raise UserError(f"{self.config.validate.ckpt_path}: {error}") from error
            if subcommand == "fit":
                check_monitors(self.trainer, self.model, self.datamodule)
            if subcommand == "fit" and self.config.fit.ckpt_path:
                check_resume(
                    self.config.fit.ckpt_path,
                    config=self.model.gpt.config,
                    data=self.datamodule.state_dict(),
                    max_steps=self.trainer.max_steps,
                    allowed=run.allowed_changes,
                )
        with announce_waiting(self.trainer):
            super()._run_subcommand(subcommand)

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        return {**kwargs, "verbose": False} if subcommand == "validate" else kwargs

    def before_fit(self) -> None:
        settings = self.config.fit
        self._get(self.config_init, "export").provenance = Provenance(
            recipe=[str(path) for path in settings.config or []],
            overrides=overrides(self.arguments),
            seed=settings.seed_everything,
            config=self._parser("fit").dump(settings, skip_none=False),
        )

    def after_fit(self) -> None:
        result = self._get(self.config_init, "export").result
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


class _ParserReady(Exception):  # noqa: N818 (no error)
    """Carries the finished parser out of the constructor."""


class _ParserOnly(GolfCLI):
    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        raise _ParserReady(parser)


def commands() -> dict[str, SettingsParser]:
    """Returns the parsers of the commands, by name."""
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
        UserError: the user made a mistake; the message names the rank unless it is rank 0.
        RunError: the run cannot continue.
        StoppedBySignal: a signal ended the run.
    """
    quiet_libraries()
    with one_line_errors():
        GolfCLI(expand_console_flag(words), parent_pid=parent_pid)
