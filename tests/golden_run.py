"""A real training run on the golden shards, through Lightning's Trainer."""

from pathlib import Path
from typing import Any

from golden_data import GOLDEN, TOKENIZER, VOCAB_SIZE, meta, reference_weights
from lightning.pytorch import Callback, Trainer

from plgolf.optim import AdamConfig, MuonAdam, MuonConfig, Warmdown
from plgolf.reference import gpt_config_from_reference, weights_from_reference
from plgolf.training import GolfModule, ShardDataModule


class Record(Callback):
    """Notes every step's loss, learning-rate factor and momentum, and every validation."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.factors: list[float] = []
        self.momenta: list[float] = []
        self.validations: list[tuple[int, float]] = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        group = trainer.optimizers[0].param_groups[0]
        self.factors.append(group["lr"] / group["initial_lr"])

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.losses.append(module.run.train_loss)
        self.momenta.append(trainer.optimizers[0].param_groups[1]["momentum"])

    def on_validation_end(self, trainer, module):
        self.validations.append((trainer.global_step, module.run.val_score.loss))


def golden_module(name: str = "tied", *, warmdown_steps: int = 0, **muon: Any) -> GolfModule:
    """The golden model in float32 with the golden weights and the reference's learning rates."""

    def optimizer(groups):
        return MuonAdam(
            groups,
            matrix=MuonConfig(**muon),
            embedding=AdamConfig(lr=0.03 if name == "tied" else 0.6),
        )

    config = gpt_config_from_reference(meta(name)["config"], compute_dtype="float32")
    module = GolfModule(config, optimizer, Warmdown(warmdown_steps))
    module.gpt.load_state_dict(weights_from_reference(reference_weights(name)))
    return module


def golden_data(
    name: str = "tied", *, kind: type[ShardDataModule] = ShardDataModule, **settings: Any
) -> ShardDataModule:
    seq_len = meta(name)["seq_len"]
    defaults = {
        "root": str(GOLDEN / name),
        "tokenizer": str(TOKENIZER),
        "vocab_size": VOCAB_SIZE,
        "seq_len": seq_len,
        "global_batch_tokens": 8 * seq_len,
        "micro_batch_sequences": 8,
        "val_every_steps": 0,
    }
    return kind(**{**defaults, **settings})


def trainer(folder: Path, *callbacks: Callback, **settings: Any) -> Trainer:
    defaults = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "default_root_dir": str(folder),
    }
    return Trainer(**{**defaults, **settings}, callbacks=list(callbacks))
