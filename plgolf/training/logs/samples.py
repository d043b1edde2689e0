"""What the model writes, to the loggers that take text."""

from collections.abc import Callable
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning.pytorch import Callback, Trainer

from plgolf.errors import at_least
from plgolf.model import GPT
from plgolf.model.weights import copied
from plgolf.training.datamodule import ShardDataModule
from plgolf.training.logs.media import MEDIA_LOGGERS, log_table
from plgolf.training.logs.screen import say

if TYPE_CHECKING:
    from plgolf.generation.language_model import LanguageModel


class SampleLog(Callback):
    """Sends sample text to TensorBoard, Weights & Biases and MLflow; does nothing without one of them.

    A copy of the model writes on rank 0's CPU, which changes neither the trained model nor its random
    numbers, and takes no training time. An error here does not end a run.

    Args:
        prompts: texts to continue; by default the model begins a document.
        max_tokens: number of tokens to write after a prompt.
        temperature: above 1 bolder, below 1 safer; 0 for the most likely token each time.
        when: ``end`` for the exported artifact; ``validation`` also for the model in training after each
            validation.
    """

    def __init__(
        self,
        prompts: list[str] | None = None,
        max_tokens: int = 64,
        temperature: float = 0.8,
        when: Literal["end", "validation"] = "end",
    ) -> None:
        at_least("max_tokens", max_tokens, 1)
        at_least("temperature", temperature, 0)
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
        takers = [logger for logger in trainer.loggers if isinstance(logger, MEDIA_LOGGERS)]
        if not takers or not trainer.is_global_zero:
            return
        settings: dict[str, Any] = {"max_tokens": self.max_tokens, "temperature": self.temperature}
        try:
            with torch.random.fork_rng(devices=[]):
                model = load(trainer.datamodule)  # type: ignore[attr-defined]
                rows = [(prompt, model.generate(prompt, **settings)) for prompt in self.prompts]
        except Exception as error:
            say(f"{name} could not be written: {type(error).__name__}: {error}")
            return
        # Markdown shows an indented text letter by letter.
        text = "\n---\n\n".join(indent(f"{prompt}{more}\n", "    ", lambda _: True) for prompt, more in rows)
        log_table(takers, name, ("prompt", "continuation"), rows, step=trainer.global_step, text=text)


def _in_training(gpt: GPT, data: ShardDataModule) -> "LanguageModel":
    """Copies a model that trains, on any device and maybe compiled."""
    from plgolf.generation.language_model import LanguageModel  # noqa: PLC0415 (not packed)

    return LanguageModel(copied(gpt), data.tokenizer, data.seq_len)


def _exported(path: Path, data: ShardDataModule) -> "LanguageModel":
    from plgolf.generation.language_model import load_artifact  # noqa: PLC0415

    return load_artifact(path, tokenizer=data.tokenizer, seq_len=data.seq_len)
