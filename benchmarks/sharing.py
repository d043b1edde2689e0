"""Measures how ranks exchange gradients: all with all, or each matrix with the rank that works on it.

    python benchmarks/sharing.py --size baseline --world_size 2 [--rounds 9]

One process for each rank, with NCCL where each has a GPU and gloo on CPUs. ``all-reduce``: every gradient to
every rank, in buckets of 25 MiB, as DDP does. ``reduce-scatter``: the matrices to their owners as MuonAdam
assigns them, in one collective, and the rest to all. ``reduce``: the same, matrix by matrix. ``updates``:
MuonAdam's all-gather, which follows each of them. Nothing hides the exchange here, and gradients are laid out
as each way needs them: the difference is the most that a step could gain. The values that owners get are
compared.
"""

import argparse
import os
import socket
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing
from contestants import SIZES, size_named
from rounds import compared, finish, in_turn, parser, relative_error
from torch.nn.utils.rnn import pad_sequence

from plgolf.distributed import all_gather_floats
from plgolf.model import GPT
from plgolf.optim.ownership import assign_owners, gather_updates
from plgolf.roles import Role, param_groups

BUCKET_BYTES = 25 * 2**20
# Its name until torch 2.12.
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


class Gradients:
    """Random gradients of a model, different on each rank, once for each way to exchange them.

    Args:
        model: model with the parameters.
        rank: this rank.
        world_size: ranks.
        device: device of the gradients.
    """

    def __init__(self, model: GPT, rank: int, world_size: int, device: torch.device) -> None:
        groups = {group["role"]: group["params"] for group in param_groups(model)}
        self.shapes = tuple(p.shape for p in groups.pop(Role.MATRIX.value))
        self.owners = assign_owners(self.shapes, world_size)
        self.device = device
        numbers = torch.Generator().manual_seed(rank)
        self.matrices = [torch.randn(shape, generator=numbers).to(device) for shape in self.shapes]
        count = sum(p.numel() for params in groups.values() for p in params)
        self.rest = torch.randn(count, generator=numbers).to(device)
        self.everything = torch.cat([self.rest, *(matrix.flatten() for matrix in self.matrices)])
        owned = list(zip(self.matrices, self.owners, strict=True))
        by_owner = [
            torch.cat([matrix.flatten() for matrix, owner in owned if owner == each])
            for each in range(world_size)
        ]
        self.pieces = pad_sequence(by_owner, batch_first=True)
        self.piece = torch.empty_like(self.pieces[0])
        self.mine = {i: matrix.bfloat16() for i, (matrix, owner) in enumerate(owned) if owner == rank}

    def all_reduce(self) -> None:
        buckets = self.everything.split(BUCKET_BYTES // 4)
        wait_for(dist.all_reduce(bucket, async_op=True) for bucket in buckets)

    def reduce_scatter(self) -> None:
        rest = dist.all_reduce(self.rest, async_op=True)
        wait_for([rest, _reduce_scatter(self.piece, self.pieces.view(-1), async_op=True)])

    def reduce(self) -> None:
        rest = dist.all_reduce(self.rest, async_op=True)
        owned = zip(self.matrices, self.owners, strict=True)
        wait_for([rest, *(dist.reduce(matrix, dst=owner, async_op=True) for matrix, owner in owned)])

    def updates(self) -> None:
        shapes = dict(enumerate(self.shapes))
        gather_updates(self.mine, shapes, self.owners, dtype=torch.bfloat16, device=self.device)()

    def errors(self) -> dict[str, float]:
        """Exchanges once, and returns the largest error of owners' matrices against all-reduce."""
        self.all_reduce()
        self.reduce_scatter()
        self.reduce()
        _, *exact = self.everything.split([self.rest.numel(), *(shape.numel() for shape in self.shapes)])
        expected = torch.cat([exact[i] for i in self.mine])
        found = {
            "reduce-scatter": self.piece[: expected.numel()],
            "reduce": torch.cat([self.matrices[i].flatten() for i in self.mine]),
        }
        errors = torch.tensor([relative_error(each, expected) for each in found.values()], device=self.device)
        return dict(zip(found, map(max, zip(*all_gather_floats(errors), strict=True)), strict=True))


def wait_for(works: Iterable[dist.Work]) -> None:
    for work in list(works):  # All start before the first is waited for.
        work.wait()


def measure(rank: int, settings: argparse.Namespace, port: int) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(settings.threads or 1)
    on_gpus = torch.cuda.device_count() >= settings.world_size
    device = torch.device("cuda", rank) if on_gpus else torch.device("cpu")
    if on_gpus:
        torch.cuda.set_device(device)
    backend = "nccl" if on_gpus else "gloo"
    dist.init_process_group(backend, rank=rank, world_size=settings.world_size)
    gradients = Gradients(GPT(size_named(settings.size).gpt), rank, settings.world_size, device)
    errors = gradients.errors()
    ways: dict[str, Callable[[], Any]] = {
        "all-reduce": gradients.all_reduce,
        "reduce-scatter": gradients.reduce_scatter,
        "reduce": gradients.reduce,
        "updates": gradients.updates,
    }
    times = in_turn(together(ways), rounds=settings.rounds, warm_up=2)
    dist.destroy_process_group()
    if rank == 0:
        count = sum(shape.numel() for shape in gradients.shapes)
        finish(
            settings,
            {
                "backend": backend,
                "matrices_mb": 4e-6 * count,
                "rest_mb": 4e-6 * gradients.rest.numel(),
                "errors": errors,
                "ways": compared(times, to="all-reduce"),
            },
        )


def together(ways: dict[str, Callable[[], Any]]) -> dict[str, Callable[[], Any]]:
    """Waits for all ranks at the end of a turn, so that they start the next one together."""

    def ended(way: Callable[[], Any]) -> Callable[[], None]:
        def work() -> None:
            way()
            dist.barrier()

        return work

    return {name: ended(way) for name, way in ways.items()}


def main() -> None:
    arguments = parser(__doc__, rounds=9)
    arguments.add_argument("--size", choices=SIZES, default="small")
    arguments.add_argument("--world_size", type=int, default=2, help="ranks")
    settings = arguments.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(measure, (settings, port), settings.world_size)


if __name__ == "__main__":
    main()
