"""The loops that benchmarks compare: plgolf's bare training loop and the reference-style one.

A contestant is named ``plgolf-float32``, ``reference-bfloat16-compiled`` and so on.
"""

import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import yaml
from reference_style import ReferenceLoop
from torch import Tensor

from plgolf.config import config_from_dict
from plgolf.data.loader import BatchLoader
from plgolf.data.shards import ShardReader, find_shards, write_shard
from plgolf.data.stream import Batch, TrainStream, plan_batches
from plgolf.data.tokenizer import ByteTokenizer
from plgolf.model import GPT, AttentionConfig, GPTConfig
from plgolf.optim import AdamConfig, MuonAdam, MuonConfig
from plgolf.roles import param_groups

CONFIGS = Path(__file__).parent.parent / "configs"
ENDLESS = 2**40


def pinned(make: Callable[[int], Batch], device: torch.device) -> Callable[[int], Batch]:
    """Returns a function that makes batches in page-locked memory if the device is a GPU."""
    return (lambda index: make(index).pin_memory()) if device.type == "cuda" else make


@dataclass(frozen=True, kw_only=True)
class Size:
    """A model, its optimizer and its batches.

    Args:
        gpt: the architecture.
        optimizer: settings by role, arguments of ``MuonAdam``.
        seq_len: tokens in a sequence.
        sequences: sequences in a micro-batch.
        accumulation: micro-batches in a step.
    """

    gpt: GPTConfig
    optimizer: dict[str, Any]
    seq_len: int
    sequences: int
    accumulation: int

    @property
    def step_tokens(self) -> int:
        return self.seq_len * self.sequences * self.accumulation

    def with_vocabulary(self, vocab_size: int) -> "Size":
        return dataclasses.replace(self, gpt=dataclasses.replace(self.gpt, vocab_size=vocab_size))


def _recipe(name: str) -> Size:
    recipe = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    model, data = recipe["model"], recipe["data"]
    settings = {"head": AdamConfig(lr=0.008)}
    for role, given in model["optimizer"]["init_args"].items():
        kind = MuonConfig if role == "matrix" else AdamConfig
        settings[role] = config_from_dict(kind, given)
    tokens = data["micro_batch_sequences"] * data["seq_len"]
    return Size(
        gpt=config_from_dict(GPTConfig, model["gpt"]),
        optimizer=settings,
        seq_len=data["seq_len"],
        sequences=data["micro_batch_sequences"],
        accumulation=data["global_batch_tokens"] // tokens,
    )


def size_named(name: Literal["tiny", "quickstart", "small", "baseline"]) -> Size:
    """Returns ``configs/quickstart.yaml``, ``configs/baseline.yaml`` on one device, or something between."""
    if name in ("quickstart", "baseline"):
        return _recipe(name)
    quickstart = _recipe("quickstart")
    if name == "small":
        attention = AttentionConfig(num_heads=4, num_kv_heads=2)
        gpt = GPTConfig(vocab_size=1024, dim=256, num_layers=4, attention=attention)
        return dataclasses.replace(quickstart, gpt=gpt, seq_len=512, sequences=8, accumulation=1)
    attention = AttentionConfig(num_heads=2, num_kv_heads=1)
    gpt = GPTConfig(vocab_size=260, dim=32, num_layers=2, attention=attention, compute_dtype="float32")
    # Products of such small matrices cost only their calls, which are slow in bfloat16.
    optimizer = {
        **quickstart.optimizer,
        "matrix": dataclasses.replace(quickstart.optimizer["matrix"], newton_schulz_dtype="float32"),
    }
    return Size(gpt=gpt, optimizer=optimizer, seq_len=32, sequences=2, accumulation=2)


SIZES = ("tiny", "quickstart", "small", "baseline")


@contextmanager
def shards(given: Path | None, *, vocab_size: int, tokens: int) -> Iterator[Path]:
    """Yields a folder of shards: the given one, or a temporary one of random tokens.

    Args:
        given: a dataset's folder, or None.
        vocab_size: size of the vocabulary of random tokens; with 260 a tokenizer is written too.
        tokens: tokens in each of two random training shards.
    """
    if given is not None:
        yield given
        return
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for split, number, count in (("train", 0, tokens), ("train", 1, tokens), ("val", 0, tokens // 64)):
            random = rng.integers(4, vocab_size, count, dtype=np.uint16)
            write_shard(Path(folder) / f"random_{split}_{number:06d}.bin", random)
        if vocab_size == ByteTokenizer.vocab_size:
            (Path(folder) / ByteTokenizer.file_name).write_bytes(ByteTokenizer().to_bytes())
        yield Path(folder)


class PlgolfLoop:
    """Model, optimizer and loader of a run of plgolf, timed beside ``ReferenceLoop``.

    It leaves out what else a run does in its steps: seeds, clock and checks for NaN.
    ``lightning_overhead.py`` measures the cost of these.

    Args:
        gpt: whose weights it begins with.
        size: model, optimizer, batches.
        root: folder of the shards.
        device: where.
        dtype: dtype of the residual stream.
        compiled: True to compile the model, as ``model.compile`` does.
    """

    def __init__(
        self, gpt: GPT, size: Size, root: Path, *, device: torch.device, dtype: torch.dtype, compiled: bool
    ) -> None:
        name = str(dtype).removeprefix("torch.")
        self.model = GPT(dataclasses.replace(gpt.config, compute_dtype=name)).to(device)
        self.model.load_state_dict(gpt.state_dict())
        if compiled:
            self.model.compile(dynamic=False, fullgraph=True)
        self.optimizers = [MuonAdam(param_groups(self.model), **size.optimizer)]
        plan = plan_batches(
            global_batch_tokens=size.step_tokens,
            seq_len=size.seq_len,
            micro_batch_sequences=size.sequences,
            world_size=1,
        )
        stream = TrainStream(ShardReader(find_shards(root, "train")), plan, seq_len=size.seq_len, rank=0)
        self.loader = BatchLoader(pinned(stream.batch, device), ENDLESS)
        self.batches = iter(self.loader)
        self.accumulation, self.device = size.accumulation, device

    def micro_batch(self) -> Tensor:
        """Runs forward and backward once, and returns the loss () without waiting for it."""
        batch = next(self.batches)
        inputs, targets = (
            part.to(self.device, non_blocking=True).long() for part in (batch.input_ids, batch.target_ids)
        )
        loss: Tensor = self.model(inputs, targets)
        (loss / self.accumulation if self.accumulation > 1 else loss).backward()
        return loss.detach()

    def step(self) -> Tensor:
        """Makes a step and returns its loss () without waiting for it."""
        (optimizer,) = self.optimizers
        losses = [self.micro_batch() for _ in range(self.accumulation)]
        optimizer.step()
        optimizer.zero_grad()
        return torch.stack(losses).mean()

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.step()


Loop = PlgolfLoop | ReferenceLoop


def contestant(name: str, gpt: GPT, size: Size, root: Path, device: torch.device) -> Loop:
    """Makes a loop by its name; loops with the same start make the same steps up to rounding.

    Args:
        name: ``plgolf`` or ``reference``, a dtype, and optionally ``compiled``, joined by hyphens.
        gpt: whose weights it begins with.
        size: model, optimizer, batches.
        root: folder of the shards.
        device: where.
    """
    who, dtype_name, *rest = name.split("-")
    if who not in ("plgolf", "reference") or dtype_name not in ("float32", "bfloat16") or rest[1:]:
        raise SystemExit(f"no contestant {name}: plgolf-float32, reference-bfloat16-compiled, ...")
    if rest not in ([], ["compiled"]):
        raise SystemExit(f"no contestant {name}: after the dtype comes compiled or nothing")
    dtype, compiled = getattr(torch, dtype_name), rest == ["compiled"]
    if who == "plgolf":
        if device.type == "cuda":
            torch.set_float32_matmul_precision("high")  # As GolfModule does.
        return PlgolfLoop(gpt, size, root, device=device, dtype=dtype, compiled=compiled)
    return ReferenceLoop(
        gpt,
        size.optimizer,
        root,
        sequences=size.sequences,
        seq_len=size.seq_len,
        accumulation=size.accumulation,
        device=device,
        dtype=dtype,
        compiled=compiled,
        # The reference runs on GPUs only and has it fused; a plain loop on a CPU does not.
        fused=device.type == "cuda",
    )


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
