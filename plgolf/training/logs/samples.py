"""What the model writes, to the loggers that take text."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning.pytorch import Callback, Trainer

from plgolf.errors import UserError
from plgolf.model import GPT
from plgolf.model.weights import gpt_with_weights
from plgolf.training.datamodule import ShardDataModule
from plgolf.training.logs.media import log_table, takes_media
from plgolf.training.logs.screen import say

if TYPE_CHECKING:
    from plgolf.generation.language_model import LanguageModel


class SampleLog(Callback):
    """Sends loggers sample text: TensorBoard, Weights & Biases, MLflow; without one of them it does nothing.

    The model that writes is one of its own, on rank 0's CPU: what is trained or compiled, and its random
    numbers, stay as they are. The clock stands meanwhile. Nothing that goes wrong here ends a run.

    Args:
        prompts: a text each; by default the model begins a document of its own.
        max_tokens: to write after a prompt.
        temperature: above 1 bolder, below 1 safer; 0 for the most likely token each time.
        when: ``end`` for the exported artifact, once it is written; ``validation`` for the model in training
            after each validation, too.
    """

    def __init__(
        self,
        prompts: list[str] | None = None,
        max_tokens: int = 64,
        temperature: float = 0.8,
        when: Literal["end", "validation"] = "end",
    ) -> None:
        if max_tokens < 1:
            raise UserError(f"samples.max_tokens must be at least 1, got {max_tokens}")
        if not temperature >= 0:
            raise UserError(f"samples.temperature must be at least 0, got {temperature}")
        self.prompts = prompts or [""]
        self.max_tokens = max_tokens
        self.temperature = temperature
        self.when = when

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        if self.when == "validation" and trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._log(trainer, "samples/training", lambda data: _in_training(pl_module.gpt, data))

    def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
        # All that a run leaves is on disk by now, whatever a logger does.
        run = pl_module.run
        if run.result_folder:
            path = run.result_folder / run.result["artifact"]
            self._log(trainer, "samples/artifact", lambda data: _exported(path, data))

    def _log(self, trainer: Trainer, name: str, load: Callable[[ShardDataModule], "LanguageModel"]) -> None:
        takers = [logger for logger in trainer.loggers if takes_media(logger)]
        if not takers or not trainer.is_global_zero:
            return
        try:
            with torch.random.fork_rng(devices=[]):
                rows = self._write(load(trainer.datamodule))  # type: ignore[attr-defined]
        except Exception as error:
            say(f"{name} could not be written: {type(error).__name__}: {error}")
            return
        text = "\n---\n\n".join(_block(prompt + written) for prompt, written in rows)
        log_table(takers, name, ("prompt", "continuation"), rows, step=trainer.global_step, text=text)

    def _write(self, model: "LanguageModel") -> list[tuple[str, str]]:
        settings: dict[str, Any] = {"max_tokens": self.max_tokens, "temperature": self.temperature}
        return [(prompt, model.generate(prompt, **settings)) for prompt in self.prompts]


def _in_training(gpt: GPT, data: ShardDataModule) -> "LanguageModel":
    """Copies a model that trains, on any device and maybe compiled."""
    from plgolf.generation.language_model import LanguageModel  # noqa: PLC0415 (no submission has it)

    weights = {name: tensor.detach().cpu().clone() for name, tensor in gpt.state_dict().items()}
    return LanguageModel(gpt_with_weights(gpt.config, weights).eval(), data.tokenizer, data.seq_len)


def _exported(path: Path, data: ShardDataModule) -> "LanguageModel":
    from plgolf.generation.language_model import load_artifact  # noqa: PLC0415

    return load_artifact(path, tokenizer=data.tokenizer, seq_len=data.seq_len)


def _block(text: str) -> str:
    """Indents a text, which Markdown then shows letter by letter."""
    return "".join(f"    {line}\n" for line in text.splitlines())
