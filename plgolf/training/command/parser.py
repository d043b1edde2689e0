"""The parser of ``plgolf fit`` and ``plgolf validate``, with Lightning's settings in plain words."""

from typing import Literal

from lightning.pytorch.cli import LightningArgumentParser

from plgolf.arguments import SettingsParser

# fmt: off
NOT_OFFERED = frozenset({
    # Optimizers for one kind of parameter, or that call the loss again.
    "LBFGS", "Muon", "SparseAdam",
    # Callbacks that every run has.
    "ArtifactExport", "CompileWarmup", "ConsoleLog", "PeerWatch", "RunCheckpoint", "SampleLog", "TrainClock",
    "SaveConfigCallback", "SaveRunConfig", "WeightAverages",
    # Callbacks that search for settings, change the batch or the schedule, or are bases of others.
    "BatchSizeFinder", "LearningRateFinder", "GradientAccumulationScheduler", "StochasticWeightAveraging",
    "BaseFinetuning", "BasePredictionWriter", "Checkpoint", "ProgressBar",
    # Needs a function, which only Python can give it.
    "ThroughputMonitor",
    "DummyLogger",
})
# fmt: on
"""Classes that completion does not offer because they cannot work in ``plgolf fit``."""

_CHECKPOINT_TEXTS = {
    "fit": "checkpoint to continue from: a file, or last for the newest",
    "validate": "checkpoint or artifact to score; must be given",
}
_COMMAND_TEXTS = {
    "seed_everything": "seed of all random numbers; true draws one",
    "weights_only": "leave it: checkpoints are always read without running code",
}
_TRAINER_TEXTS = {
    "trainer": "Lightning's Trainer",
    "trainer.accelerator": "cpu, gpu, or auto for a GPU if there is one",
    "trainer.devices": "devices of this machine: how many, which, or auto",
    "trainer.num_nodes": "number of machines",
    "trainer.strategy": "how ranks work together: auto, ddp, or a class",
    "trainer.max_steps": "optimizer steps after which the run ends; -1 for no limit",
    "trainer.gradient_clip_val": "leave it: model.gradient_clip_norm clips the gradient",
    "trainer.limit_val_batches": "validation batches of each rank; null for all",
    "trainer.num_sanity_val_steps": "validation batches before the first step; -1 for the whole split",
    "trainer.log_every_n_steps": "steps between two rows of the logged metrics; null for 50, 0 for none",
    "trainer.default_root_dir": "folder of the run: results, checkpoints, logs",
    "trainer.logger": "where metrics go: classes; null for CSV in logs/, false for none",
    "trainer.callbacks": "further callbacks: classes, such as LearningRateMonitor",
    "trainer.profiler": "measures where time is spent: simple, advanced, pytorch",
    "trainer.deterministic": "use only deterministic operations",
    "trainer.enable_checkpointing": "false for a run that cannot be resumed",
    "trainer.precision": "leave it: model.gpt.compute_dtype sets the precision",
    "trainer.accumulate_grad_batches": "leave it: it follows from data.global_batch_tokens",
    "trainer.val_check_interval": "leave it: data.val_every_steps sets it",
}
"""Texts of Lightning's settings; ``--help`` shows these of the trainer and no others."""


class GolfParser(SettingsParser, LightningArgumentParser):
    """LightningCLI's parser with readable help and one-line errors."""

    def finish(self, command: str) -> None:
        """Adds what comes after Lightning's own arguments, and replaces the texts of those."""
        if command == "fit":
            self.add_argument(
                "--resume",
                type=Literal["auto"] | None,
                help="auto continues from the newest whole checkpoint; without one the run starts",
            )
        self.brief["trainer"] = set(_TRAINER_TEXTS)
        # Lightning's arguments of the command itself are listed among the first.
        texts = {"ckpt_path": _CHECKPOINT_TEXTS[command], command: ""}
        self.describe({**_TRAINER_TEXTS, **_COMMAND_TEXTS, **texts})


def overrides(arguments: list[str]) -> list[str]:
    """Returns a command line without the subcommand and the recipes."""
    rest, words = [], iter(arguments[1:])
    for argument in words:
        if argument in ("-c", "--config"):
            next(words, None)
        elif not argument.startswith(("--config=", "-c=")):
            rest.append(argument)
    return rest
