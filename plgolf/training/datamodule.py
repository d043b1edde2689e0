"""The LightningDataModule: token shards to batches, on any number of ranks."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, Trainer
from numpy.typing import NDArray

from plgolf.config import config_to_dict
from plgolf.console import Terminal
from plgolf.data.byte_counts import ByteCounts
from plgolf.data.loader import BatchLoader
from plgolf.data.manifest import find_tokenizer, identity_of, open_split, read_manifest
from plgolf.data.shards import MAX_VOCAB_SIZE, ShardReader, find_side_cars
from plgolf.data.stream import Batch, BatchPlan, Stream, ValidationSplit, plan_batches
from plgolf.data.streams import StreamConfig, make_stream
from plgolf.data.tokenizer import Tokenizer
from plgolf.errors import UserError, at_least
from plgolf.training.checkpoints import compare
from plgolf.training.next_steps import how_to_get

_ENDLESS = 2**40
"""Steps of a run: more than any clock allows. Lightning reads ahead of a loader without a length."""


class ShardDataModule(LightningDataModule):
    """Streams ``*_train_<number>.bin`` and ``*_val_<number>.bin`` shards from one folder.

    Gradient accumulation and the validation interval follow from these settings and the number of ranks, so
    they are not set on the trainer.

    Args:
        root: folder of the shards.
        tokenizer: SentencePiece ``.model`` file, or ``.json`` of the byte tokenizer; null for the one in the
            dataset.
        corpus: text to build ``root`` from if it does not exist: ``stdlib`` is the source code of this
            Python's standard library; null builds nothing.
        vocab_size: size of the tokenizer; on the command line it is ``model.gpt.vocab_size``.
        seq_len: tokens in a sequence.
        global_batch_tokens: tokens in an optimizer step, over all ranks.
        micro_batch_sequences: sequences that a rank processes at once.
        stream: how training batches are cut from the shards.
        val_batch_sequences: largest number of sequences that a rank scores at once.
        val_every_steps: optimizer steps between validations; 0 for one validation, at the end.
        val_max_tokens: score about this many tokens from the start of the split; null for all of them.
    """

    def __init__(  # noqa: PLR0913, PLR0917 (settings)
        self,
        root: str = "data/datasets/fineweb10B_sp1024",
        tokenizer: str | None = None,
        corpus: Literal["stdlib"] | None = None,
        vocab_size: int = 1024,
        seq_len: int = 4096,
        global_batch_tokens: int = 393_216,
        micro_batch_sequences: int = 12,
        stream: StreamConfig = StreamConfig(),  # noqa: B008 (frozen)
        val_batch_sequences: int = 16,
        val_every_steps: int = 1000,
        val_max_tokens: int | None = None,
    ) -> None:
        super().__init__()
        at_least("seq_len", seq_len, 1)
        at_least("global_batch_tokens", global_batch_tokens, 1)
        at_least("micro_batch_sequences", micro_batch_sequences, 1)
        at_least("val_batch_sequences", val_batch_sequences, 1)
        at_least("val_every_steps", val_every_steps, 0)
        if vocab_size > MAX_VOCAB_SIZE:
            raise UserError(f"vocab_size must be at most {MAX_VOCAB_SIZE} for shards, got {vocab_size}")
        self.root = Path(root)
        self.tokenizer_path = Path(tokenizer) if tokenizer else None
        self.corpus = corpus
        self.vocab_size = vocab_size
        self.seq_len = seq_len
        self.global_batch_tokens = global_batch_tokens
        self.micro_batch_sequences = micro_batch_sequences
        self.stream = stream
        self.val_batch_sequences = val_batch_sequences
        self.val_every_steps = val_every_steps
        self.val_max_tokens = val_max_tokens

        self.byte_counts: ByteCounts[NDArray[np.generic]]
        self.plan: BatchPlan
        self.tokenizer: Tokenizer
        self.train_stream: Stream
        self.val_split: ValidationSplit

    def prepare_data(self) -> None:
        self.build()
        # Mistakes are refused here, before Lightning writes its first file.
        self._check()

    def setup(self, stage: str) -> None:
        self._check()
        trainer = self.trainer
        if stage == "fit" and trainer is not None:
            self.plan_for(trainer)
            trainer.val_check_interval = self.val_every_steps or _ENDLESS
            trainer.check_val_every_n_epoch = None  # Lightning would validate by epoch too.

    def build(self) -> None:
        """Builds the dataset of ``corpus`` if it does not exist."""
        if self.corpus == "stdlib":
            from plgolf.corpus.prepare import prepare_stdlib  # noqa: PLC0415 (not in a submission's code)

            prepare_stdlib(self.root, vocab_size=self.vocab_size, console=Terminal(prefix="data: "))

    def _check(self) -> None:
        trainer = self.trainer
        fit = trainer is None or trainer.state.fn == "fit"
        rank, world_size = (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)
        self.check(training=fit, rank=rank, world_size=world_size)

    def check(self, *, training: bool, rank: int = 0, world_size: int = 1) -> None:
        """Opens the tokenizer and every shard, and plans the batches.

        Args:
            training: open the training shards too.
            rank: this rank.
            world_size: number of ranks.

        Raises:
            UserError: a file is missing or malformed, or the settings do not fit it or each other.
        """
        if not self.root.is_dir():
            raise UserError(f"{self.root}: no such folder (data.root): {how_to_get(self.root)}")
        manifest = read_manifest(self.root)
        self.tokenizer = find_tokenizer(self.root, manifest, self.tokenizer_path)
        if self.tokenizer.vocab_size != self.vocab_size:
            raise UserError(
                f"vocab_size must equal the {self.tokenizer.vocab_size} pieces of the tokenizer of "
                f"{self.root}, got {self.vocab_size}"
            )
        self.byte_counts = self.tokenizer.byte_counts
        if training:
            self.plan = self._plan(world_size)
            train = open_split(self.root, "train", manifest, vocab_size=self.vocab_size)
            if train.num_tokens == 0:
                raise UserError(f"{train.shards[0].path}: holds no tokens")
            bos_id = self.tokenizer.bos_id
            self.train_stream = make_stream(
                self.stream, train, self.plan, seq_len=self.seq_len, rank=rank, bos_id=bos_id
            )
        val = open_split(self.root, "val", manifest, vocab_size=self.vocab_size)
        side_cars = find_side_cars(self.root, "val", val.shards)
        if self.tokenizer.transform and not side_cars:
            raise UserError(f"{self.root}: must have byte side-cars")
        self.val_split = ValidationSplit(
            val,
            raw_bytes=ShardReader(side_cars) if side_cars else None,
            seq_len=self.seq_len,
            batch_sequences=self.val_batch_sequences,
            rank=rank,
            world_size=world_size,
            max_tokens=self.val_max_tokens,
            borders=self.stream.borders(self.tokenizer.bos_id),
        )

    def plan_for(self, trainer: Trainer) -> BatchPlan:
        """Plans the batches for a trainer.

        Raises:
            UserError: something does not divide, or the trainer sets what follows from these settings.
        """
        with suppress(ImportError):  # Packed code leaves this check out.
            from plgolf.training.requirements import check_loops  # noqa: PLC0415

            check_loops(trainer, val_every_steps=self.val_every_steps or _ENDLESS)
        return self._plan(trainer.world_size)

    def _plan(self, world_size: int) -> BatchPlan:
        return plan_batches(
            global_batch_tokens=self.global_batch_tokens,
            seq_len=self.seq_len,
            micro_batch_sequences=self.micro_batch_sequences,
            world_size=world_size,
        )

    def train_dataloader(self) -> BatchLoader[tuple[Batch, ...]]:
        """Returns a loader of optimizer steps: the micro-batches of this rank."""
        trainer = self.trainer
        overfit = int(trainer.overfit_batches) if trainer is not None else 0  # type: ignore[attr-defined]

        def first_step() -> int:
            # The position in the stream is the step: nothing else needs saving for an exact resume.
            step = trainer.global_step if trainer is not None else 0
            return step % overfit if overfit else step

        return BatchLoader(
            lambda step: tuple(map(self._pinned, self.train_stream.step(step))),
            overfit or _ENDLESS,
            start=first_step,
        )

    def val_dataloader(self) -> BatchLoader[Batch]:
        return BatchLoader(lambda index: self._pinned(self.val_split.batch(index)), len(self.val_split))

    test_dataloader = predict_dataloader = val_dataloader  # A dataset has no other held-out text.

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        # Lightning's own way searches collections, and takes 0.1 ms.
        return batch.to(device) if isinstance(batch, Batch) else tuple(part.to(device) for part in batch)

    def _pinned(self, batch: Batch) -> Batch:
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        # A GPU can fetch page-locked memory by itself.
        return batch.pin_memory() if on_gpu else batch

    def val_bytes(self) -> bytes:
        """Returns the text that validation scores: the decoded targets."""
        return "".join(self.tokenizer.decode_documents(self.val_split.tokens()[1:])).encode()

    def place_of(self, first: int, last: int, of_ranks: Sequence[int]) -> str:
        """Describes where in the shards the micro-batches ``first`` to ``last`` of some ranks are."""
        return self.train_stream.place_of(first, last, of_ranks)

    def identity(self) -> dict[str, str | None]:
        """Returns the folder and the hash of its manifest, None without one, for ``result.json``."""
        return identity_of(self.root)

    def state_dict(self) -> dict[str, Any]:
        """Returns what must be the same in a resumed run; Lightning keeps it in checkpoints."""
        return {
            "seq_len": self.seq_len,
            "global_batch_tokens": self.global_batch_tokens,
            "micro_batch_sequences": self.plan.span_sequences,
            "stream": config_to_dict(self.stream),
            "vocab_size": self.vocab_size,
            "tokenizer": self.tokenizer.sha256,
            "train_shards": self.train_stream.reader.fingerprints(),
            "val_shards": self.val_split.reader.fingerprints(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raises a UserError if data differ from a checkpoint's; the position follows from the step."""
        if self.trainer is None:
            return
        module: Any = self.trainer.lightning_module
        allowed = module.run.allowed_changes
        if self.trainer.state.fn == "fit":
            compare.check_same_data(state_dict, self.state_dict(), allowed=allowed)
        else:
            compare.check_same_tokenizer(state_dict, self.tokenizer.sha256, allowed=allowed)
