"""The same run through torchrun, on one and on two agents, as through Lightning's launcher."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from processes import free_port

pytestmark = pytest.mark.slow


def torchrun(
    recipe: Path, folder: Path, *words: str, options: list[str], devices: int
) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={devices}", *options]
    command += ["-m", "plgolf", "fit", "-c", str(recipe), "--trainer.strategy=ddp", "--trainer.max_steps=5"]
    command += [f"--trainer.devices={devices}", f"--trainer.default_root_dir={folder}", *words]
    tests = str(Path(__file__).parent.parent)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": tests}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def end_of(folder: Path) -> tuple[dict, dict]:
    checkpoint = torch.load(folder / "step-000005.ckpt", weights_only=True)
    return checkpoint["state_dict"], json.loads((folder / "result.json").read_text())


def test_torchrun_on_one_and_on_two_nodes_is_one_run(golden_recipe, tmp_path):
    one = torchrun(golden_recipe, tmp_path / "one", options=["--standalone"], devices=2)
    said = one.communicate(timeout=120)[0]
    assert one.returncode == 0, said
    address = ["--nnodes=2", "--master_addr=127.0.0.1", f"--master_port={free_port()}"]
    nodes = [
        torchrun(
            *(golden_recipe, tmp_path / "two", "--trainer.num_nodes=2"),
            options=[*address, f"--node_rank={node}"],
            devices=1,
        )
        for node in (0, 1)
    ]
    outputs = [node.communicate(timeout=120)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], outputs
    (weights, result), (same_weights, same_result) = end_of(tmp_path / "one"), end_of(tmp_path / "two")
    assert all(torch.equal(tensor, same_weights[name]) for name, tensor in weights.items())
    assert result["world_size"] == same_result["world_size"] == 2
    assert result["roundtrip_val_bpb"] == same_result["roundtrip_val_bpb"]


def test_torchrun_stops_all_ranks_when_one_is_killed(golden_recipe, tmp_path):
    killing = f"--trainer.callbacks+={json.dumps({'class_path': 'runs.KillLastRank'})}"
    run = torchrun(golden_recipe, tmp_path / "run", killing, options=["--standalone"], devices=2)
    said = run.communicate(timeout=100)[0]
    assert run.returncode == 1
    # Who comes first is the machine's to say: our rank 0, or torchrun, which names the rank as well.
    assert "rank 1 is gone: its connection has closed" in said or "exitcode  : -9" in said, said
