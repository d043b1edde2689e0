"""Measures how fast validation is, beside a loop in the style of the reference, with the same model.

    python benchmarks/validate.py [--rounds 5] [--compile] [--dim 256] [--layers 4] [--seq_len 512]

Reference style: int64 batches that are cut when they are needed, a last batch of another shape, and the mean
loss and the bytes of each batch copied to the host. plgolf: ``evaluate`` on the batches of a
``ValidationSplit``: one shape, the last batch padded, nats summed token by token on the device. Both score
the same sequences, and their bits per byte must agree to six digits. Prints tokens a second over the whole
split, and with ``--compile`` the seconds of the first time, in which graphs are made, and their number.
"""

import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from contestants import pinned
from rounds import compared, finish, in_turn, parser, seconds_of, spread
from torch import Tensor

from plgolf import GPTConfig
from plgolf.data.byte_counts import ByteCounts
from plgolf.data.loader import BatchLoader
from plgolf.data.shards import ShardReader, find_shards, write_shard
from plgolf.data.stream import ValidationSplit
from plgolf.evaluate import Plain, evaluate, split_targets
from plgolf.model import AttentionConfig
from plgolf.training import GolfModule


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def ours(module: GolfModule, split: ValidationSplit, tokenizer: Any) -> float:
    batches = BatchLoader(pinned(split.batch, device()), len(split))
    return evaluate(Plain(batches), module.gpt, split_targets(split, tokenizer)).bpb


def reference_style(module: GolfModule, settings: Any, tokens: Tensor, counts: Any) -> float:
    seq_len, nats, num_bytes = settings.seq_len, 0.0, 0.0
    with torch.no_grad():
        for first in range(0, settings.sequences, settings.batch_sequences):
            last = min(first + settings.batch_sequences, settings.sequences)
            local = tokens[first * seq_len : last * seq_len + 1].to(device(), torch.int64)
            x, y = local[:-1].view(-1, seq_len), local[1:].view(-1, seq_len)
            nats += module.gpt(x, y).item() * y.numel()
            num_bytes += counts(x.flatten(), y.flatten()).double().sum().item()
    return nats / math.log(2) / num_bytes


def graphs() -> int:
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def made_tables(generator: np.random.Generator) -> tuple[Any, ...]:
    """Returns random byte tables of 1,024 pieces: bytes, leading spaces, borders."""
    return (
        generator.integers(1, 9, 1024, dtype=np.int32),
        generator.random(1024) < 0.5,
        generator.random(1024) < 0.01,
    )


def made_split(settings: Any, generator: np.random.Generator, folder: str) -> ValidationSplit:
    """Returns a split of random tokens, whose shard is written to a folder."""
    made = generator.integers(0, 1024, settings.sequences * settings.seq_len + 1, dtype=np.uint16)
    write_shard(Path(folder, "made_val_000000.bin"), made)
    return ValidationSplit(
        ShardReader(find_shards(Path(folder), "val"), vocab_size=1024),
        seq_len=settings.seq_len,
        batch_sequences=settings.batch_sequences,
    )


def made_module(settings: Any) -> GolfModule:
    config = GPTConfig(
        dim=settings.dim,
        num_layers=settings.layers,
        compute_dtype=settings.dtype,
        attention=AttentionConfig(num_heads=4, num_kv_heads=2),
    )
    module = GolfModule(config).to(device()).eval()
    if settings.compile:
        module.gpt.compile(dynamic=False, fullgraph=True)
        # The compiler's own start belongs to neither variant.
        torch.compile(torch.nn.Linear(2, 2).to(device()))(torch.ones(1, 2, device=device()))
    return module


def first_times(variants: dict[str, Callable[[], float]]) -> tuple[dict[str, Any], dict[str, float]]:
    """Returns seconds and new graphs of each variant's first time, and the bits per byte that it found."""
    first, found = dict[str, Any](), dict[str, float]()
    for variant, work in variants.items():
        before = graphs()
        torch._dynamo.reset()
        seconds, _ = seconds_of(lambda work=work, variant=variant: found.update({variant: work()}))
        first[variant] = {"seconds": seconds, "graphs": graphs() - before}
    torch._dynamo.reset()
    return first, found


def main() -> None:
    options = parser(__doc__, rounds=5)
    options.add_argument("--dim", type=int, default=256)
    options.add_argument("--layers", type=int, default=4)
    options.add_argument("--seq_len", type=int, default=512)
    options.add_argument("--batch_sequences", type=int, default=16)
    options.add_argument("--sequences", type=int, default=37, help="sequences in the split")
    options.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    options.add_argument("--compile", action="store_true")
    settings = options.parse_args()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    torch.manual_seed(0)
    module, generator = made_module(settings), np.random.default_rng(0)
    tables = made_tables(generator)
    counts = ByteCounts(*(torch.from_numpy(table).to(device()) for table in tables))
    tokenizer = SimpleNamespace(byte_counts=ByteCounts(*tables), bos_id=1, transform=None)
    with tempfile.TemporaryDirectory() as folder:
        split = made_split(settings, generator, folder)
        tokens = torch.from_numpy(split.tokens())
        variants = {
            "reference": lambda: reference_style(module, settings, tokens, counts),
            "plgolf": lambda: ours(module, split, tokenizer),
        }
        first, found = first_times(variants)
        assert math.isclose(found["plgolf"], found["reference"], rel_tol=1e-6), found
        times = in_turn(variants, rounds=settings.rounds)
    speeds = {name: spread([split.num_tokens / wall for wall, _ in walls]) for name, walls in times.items()}
    result = {
        "num_params": sum(parameter.numel() for parameter in module.gpt.parameters()),
        "bits_per_byte": found,
        "first_time": first,
        "time": compared(times, to="reference"),
        "tokens_per_second": speeds,
    }
    finish(settings, result)


if __name__ == "__main__":
    main()
