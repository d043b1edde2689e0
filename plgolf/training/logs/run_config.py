"""What every logger is told of a run besides its curves: where it comes from, and what its bytes are."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from plgolf.files import write_atomically
from plgolf.hardware import device_name
from plgolf.training.finish.provenance import git_commit, versions
from plgolf.training.logs.media import log_picture, log_table, to_each

_PARTS = ("artifact_bytes", "code_bytes", "total_bytes", "budget_bytes", "tokenizer_bytes")


class SaveRunConfig(SaveConfigCallback):
    """Writes the complete configuration of a fit to ``config.yaml`` in the run's folder, and to loggers."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        text = self.parser.dump(self.config, skip_none=False)
        write_atomically(Path(trainer.default_root_dir) / "config.yaml", text.encode())
        log_settings(trainer, pl_module, yaml.safe_load(text))


def log_settings(trainer: Trainer, module: LightningModule, config: Mapping[str, Any]) -> None:
    """Sends loggers the configuration, nested, as hyperparameters, and what else a result depends on."""
    settings = {
        **config,
        "seed": config.get("seed_everything"),
        "git_commit": git_commit(),
        "versions": versions(),
        "hardware": device_name(trainer.strategy.root_device),
        "world_size": trainer.world_size,
        "num_params": sum(p.numel() for p in module.parameters()),
    }

    def send(logger: Any) -> None:
        # TensorBoard's table of runs takes scores once, with the settings: log_ledger sends them.
        no_scores: dict[str, Any] = {"metrics": {}} if isinstance(logger, TensorBoardLogger) else {}
        logger.log_hyperparams(settings, **no_scores)
        logger.save()  # A run that is killed has them too.

    to_each(trainer.loggers, "settings", send)


def log_ledger(loggers: Sequence[Logger], result: Mapping[str, Any], scores: Mapping[str, float]) -> None:
    """Sends loggers the scores of the file and its bytes by part, as numbers, tables and a picture.

    Args:
        loggers: all of a run.
        result: contents of ``result.json``.
        scores: of the reloaded artifact, by the names they are logged under.
    """
    step = result["steps"]
    parts = {name: result[name] for name in _PARTS}
    values = {**scores, "export/bytes": float(result["total_bytes"])}
    values |= {f"export/{name}": float(size) for name, size in parts.items() if name != "total_bytes"}
    if result["val_share"] < 1:
        values["export/val_share"] = result["val_share"]

    def send(logger: Any) -> None:
        logger.log_metrics(values, step=step)
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(logger.hparams, {"val/bpb": result["val_bpb"], **values}, step)

    def draw() -> bytes:
        from plgolf.report.pictures import ledger_treemap  # noqa: PLC0415 (needs matplotlib)

        return ledger_treemap(result)

    to_each(loggers, "export", send)
    weights = [(name, size, size / result["budget_bytes"]) for name, size in parts.items()]
    log_table(loggers, "ledger/parts", ("part", "bytes", "of_budget"), weights, step=step)
    tensors = [{**entry, "shape": "x".join(map(str, entry["shape"]))} for entry in result["tensors"]]
    log_table(loggers, "ledger/tensors", list(tensors[0]), [list(t.values()) for t in tensors], step=step)
    log_picture(loggers, "ledger/treemap", draw, step=step)
