"""Text, tables and pictures, to the loggers that take them; numbers go to all through ``log_metrics``."""

import io
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from plgolf.training.logs.screen import say


def takes_media(logger: Logger) -> bool:
    """Whether text and pictures can be sent to a logger."""
    return isinstance(logger, TensorBoardLogger | WandbLogger | MLFlowLogger)


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
        loggers: those that take no text are left alone; one that fails costs a line on the console.
        name: what the loggers call it.
        columns: headings.
        rows: numbers and strings.
        step: completed optimizer steps.
        text: the Markdown, where a table of it would not do.
    """

    def send(logger: Logger) -> None:
        match logger:
            case TensorBoardLogger():
                logger.experiment.add_text(name, text or markdown_table(columns, rows), step)
            case WandbLogger():
                logger.log_table(name, list(columns), [list(row) for row in rows], step=step)
            case MLFlowLogger():
                content = text or markdown_table(columns, rows)
                logger.experiment.log_text(logger.run_id, content, f"{name}/step-{step:06}.md")

    to_each(loggers, name, send)


def log_picture(loggers: Iterable[Logger], name: str, draw: Callable[[], bytes], *, step: int) -> None:
    """Sends a picture to TensorBoard, Weights & Biases and MLflow.

    Args:
        loggers: others are left alone; one that fails costs a line on the console.
        name: what the loggers call it.
        draw: makes the PNG; called if a logger takes it. What it raises is said and not raised.
        step: completed optimizer steps.
    """
    takers = [logger for logger in loggers if takes_media(logger)]
    if not takers:
        return
    try:
        from PIL import Image  # noqa: PLC0415 (comes with matplotlib, which draws)

        picture = Image.open(io.BytesIO(draw())).convert("RGB")
    except Exception as error:
        say(f"{name} could not be drawn: {_reason(error)}")
        return

    def send(logger: Logger) -> None:
        match logger:
            case TensorBoardLogger():
                logger.experiment.add_image(name, np.asarray(picture), step, dataformats="HWC")
            case WandbLogger():
                logger.log_image(name, [picture], step=step)
            case MLFlowLogger():
                logger.experiment.log_image(logger.run_id, picture, f"{name}/step-{step:06}.png")

    to_each(takers, name, send)


def to_each(loggers: Iterable[Logger], name: str, send: Callable[[Logger], None]) -> None:
    """Calls ``send`` with every logger: what a logger raises is said on the console and not raised."""
    for logger in loggers:
        try:
            send(logger)
        except Exception as error:  # noqa: PERF203 (few)
            say(f"{type(logger).__name__}: {name} could not be logged: {_reason(error)}")


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split()):.300}"


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Renders a table, integers with thousands separators.

    >>> print(markdown_table(["part", "bytes"], [["model", 12345]]))
    | part | bytes |
    |---|---|
    | model | 12,345 |
    """
    lines = [list(columns), ["---"] * len(columns), *([_cell(value) for value in row] for row in rows)]
    text = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return text.replace("| --- ", "|---").replace("--- |", "---|")


def _cell(value: Any) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", r"\|")
