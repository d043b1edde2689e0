"""Calibrates the codecs of a format after training, with all ranks."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer

from plgolf.data.stream import plan_batches
from plgolf.data.streams import make_stream
from plgolf.errors import UserError
from plgolf.model.weights import copied
from plgolf.quantize.calibration import Calibrated, Text, input_sums, written_text
from plgolf.training.datamodule import ShardDataModule
from plgolf.training.timing.clock import TrainClock


def prepared(form: Any, trainer: Trainer, num_ranks: int | None = None) -> Any:
    """Returns a format that knows the inputs of the model's matrices, and notes the cost for ``result.json``.

    Ranks share the batches. The result is the same on any number of ranks.

    Args:
        form: format with a calibration, ``plgolf.quantize.calibration.Calibrated``.
        trainer: has the model, which is not changed, and the data.
        num_ranks: number of ranks that call this: all or one; None to check before a run that it may be
            calibrated, and return the format as it is.

    Raises:
        UserError: training text is wanted, but no time is reserved for it, or it is validation text too.
    """
    module: Any = trainer.lightning_module
    data: ShardDataModule = trainer.datamodule  # type: ignore[attr-defined]
    if num_ranks is None:
        check_calibration(form, data, module.run.clock)
        return form
    clock = module.run.clock
    started = clock.now()
    # The model as the artifact has it: whole, in the order of layers of the end, and not compiled.
    gpt = copied(module.gpt).to(module.device)
    text, count = form.calibration.text, form.calibration.batches
    shape = {"sequences": data.plan.span_sequences, "length": data.seq_len}
    numbers = range(trainer.global_rank if num_ranks > 1 else 0, count, num_ranks)
    texts: Iterator[Text]
    if text == "model":
        texts = (written_text(gpt, number, **shape) for number in numbers)
    else:
        texts = _training_text(data, trainer.global_step, numbers, module.device)
    sums = input_sums(gpt, form.calibrated_names(gpt), texts)
    if num_ranks > 1:
        for each in sums.values():
            dist.all_reduce(each)
    tokens = count * data.plan.span_sequences * data.seq_len
    means = {name: (each / tokens).float() for name, each in sums.items()}
    seconds = clock.now() - started
    within = clock.max_seconds is None or text == "model" or seconds <= clock.reserve_seconds
    note = {"text": text, "tokens": tokens, "seconds": seconds, "within_reserve": within}
    module.run.notes["calibration"] = note
    return form.calibrated(means)


def _training_text(
    data: ShardDataModule, steps: int, numbers: Iterable[int], device: torch.device
) -> Iterator[Text]:
    """Yields the micro-batches with these numbers that one rank would train on after ``steps`` steps."""
    plan = plan_batches(
        global_batch_tokens=data.global_batch_tokens,
        seq_len=data.seq_len,
        micro_batch_sequences=data.micro_batch_sequences,
        world_size=1,
    )
    reader, bos_id = data.train_stream.reader, data.tokenizer.bos_id
    stream = make_stream(data.stream, reader, plan, seq_len=data.seq_len, rank=0, bos_id=bos_id)
    for number in numbers:
        batch = stream.batch(steps * plan.accumulation + number).to(device)
        yield batch.input_ids, batch.cu_seqlens


def check_calibration(form: Calibrated, data: ShardDataModule, clock: TrainClock) -> None:
    """Raises a UserError unless a format may be calibrated after a run on its data."""
    if form.calibration is None or form.calibration.text != "training":
        return
    if clock.max_seconds is not None and not clock.reserve_seconds:
        raise UserError("clock.reserve_seconds must be positive to calibrate on training batches, got 0")
    held_out = data.val_split.reader.fingerprints().values()
    for name, print_of in data.train_stream.reader.fingerprints().items():
        if print_of in held_out:
            raise UserError(f"{data.root / name}: must not be a validation shard too, since it calibrates")
