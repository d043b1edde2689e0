"""The parser of ``plgolf fit`` and ``plgolf validate``, and what Lightning's own settings mean in them."""

from typing import Literal

from lightning.pytorch.cli import LightningArgumentParser

from plgolf.arguments import OneLineErrors

_SEED = "seed of everything that is random; true draws one"
_WEIGHTS_ONLY = "to be left alone: no file that is loaded can run code"

_COMMAND_TEXTS = {
    "fit": {
        "seed_everything": _SEED,
        "ckpt_path": "checkpoint to go on from: a file, or last for the newest",
        "weights_only": _WEIGHTS_ONLY,
    },
    "validate": {
        "seed_everything": _SEED,
        "ckpt_path": "checkpoint or artifact to score; one must be given",
        "weights_only": _WEIGHTS_ONLY,
    },
}
_TRAINER_TEXTS = {
    "trainer": "Lightning's Trainer",
    "trainer.accelerator": "cpu, gpu, or auto for a GPU if there is one",
    "trainer.devices": "devices of this machine: how many, which, or auto",
    "trainer.num_nodes": "machines",
    "trainer.strategy": "how ranks work together: auto, ddp, or a class",
    "trainer.max_steps": "optimizer steps after which the run ends; -1 for no limit",
    "trainer.gradient_clip_val": "norm that a larger gradient is scaled down to; null for no clipping",
    "trainer.limit_val_batches": "validation batches of each rank; null for all",
    "trainer.num_sanity_val_steps": "validation batches before the first step; -1 for the whole split",
    "trainer.log_every_n_steps": "steps between two rows of the logged metrics; null for 50, 0 for none",
    "trainer.default_root_dir": "folder of the run: results, checkpoints, logs",
    "trainer.logger": "where metrics go: classes; null for CSV in logs/, false for none",
    "trainer.callbacks": "further callbacks: classes, such as LearningRateMonitor",
    "trainer.profiler": "measures what takes the time: simple, advanced, pytorch",
    "trainer.deterministic": "operations that repeat exactly",
    "trainer.enable_checkpointing": "false for a run that cannot go on later",
    "trainer.precision": "to be left alone: model.gpt.compute_dtype decides",
    "trainer.accumulate_grad_batches": "to be left alone: data.global_batch_tokens decides",
    "trainer.val_check_interval": "to be left alone: data.val_every_steps decides",
}
"""Also the keys that the help shows unasked."""


class GolfParser(OneLineErrors, LightningArgumentParser):
    """LightningCLI's parser with a help that reads well and short errors."""

    def finish(self, command: str) -> None:
        """Adds what comes after Lightning's own arguments, and says those in our words."""
        if command == "fit":
            self.add_argument(
                "--resume",
                type=Literal["auto"] | None,
                help="auto goes on from the newest whole checkpoint; without one the run begins",
            )
        self.untitle_last_group()
        self.brief["trainer"] = set(_TRAINER_TEXTS)
        self.describe({**_TRAINER_TEXTS, **_COMMAND_TEXTS[command]})


def overrides(arguments: list[str]) -> list[str]:
    """Returns a command line without the subcommand and the configuration files."""
    rest, skip = [], False
    for argument in arguments[1:]:
        if skip:
            skip = False
        elif argument in ("-c", "--config"):
            skip = True
        elif not argument.startswith(("--config=", "-c=")):
            rest.append(argument)
    return rest
