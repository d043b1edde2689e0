"""Tables, text and pictures for TensorBoard, Weights & Biases and MLflow; other loggers get none of them."""

import io
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from plgolf.training.logs.screen import say

MEDIA_LOGGERS = TensorBoardLogger | WandbLogger | MLFlowLogger
"""Loggers that take text and pictures."""


def to_each(loggers: Iterable[Logger], name: str, send: Callable[[Any], None]) -> None:
    """Calls ``send`` with every logger; an error of one costs a line on the console."""
    for logger in loggers:
        try:
            send(logger)
        except Exception as error:  # noqa: PERF203 (few)
            reason = f"{type(error).__name__}: {' '.join(str(error).split()):.300}"
            say(f"{type(logger).__name__}: {name} could not be logged: {reason}")


def log_table(
    loggers: Iterable[Logger],
    name: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    step: int,
    text: str | None = None,
) -> None:
    """Sends a table: as such to Weights & Biases, as Markdown to TensorBoard and MLflow.

    Args:
        loggers: all of a run.
        name: name of the table in the loggers.
        columns: headings.
        rows: numbers and strings.
        step: completed optimizer steps.
        text: Markdown to send in place of a table.
    """
    lines = [columns, ["---"] * len(columns), *([_cell(value) for value in row] for row in rows)]
    markdown = text or "\n".join(f"| {' | '.join(cells)} |" for cells in lines)

    def send(logger: Any) -> None:
        match logger:
            case TensorBoardLogger():
                logger.experiment.add_text(name, markdown, step)
            case WandbLogger():
                logger.log_table(name, list(columns), [list(row) for row in rows], step=step)
            case MLFlowLogger():
                logger.experiment.log_text(logger.run_id, markdown, f"{name}/step-{step:06}.md")

    to_each(loggers, name, send)


def log_picture(loggers: Iterable[Logger], name: str, draw: Callable[[], bytes], *, step: int) -> None:
    """Sends the PNG that ``draw`` returns, which is called only if a logger takes pictures."""

    def send(logger: Any) -> None:
        from PIL import Image  # noqa: PLC0415 (comes with matplotlib, which draws)

        picture = Image.open(io.BytesIO(draw())).convert("RGB")
        match logger:
            case TensorBoardLogger():
                logger.experiment.add_image(name, np.asarray(picture), step, dataformats="HWC")
            case WandbLogger():
                logger.log_image(name, [picture], step=step)
            case MLFlowLogger():
                logger.experiment.log_image(logger.run_id, picture, f"{name}/step-{step:06}.png")

    to_each([logger for logger in loggers if isinstance(logger, MEDIA_LOGGERS)], name, send)


def _cell(value: Any) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", r"\|")
