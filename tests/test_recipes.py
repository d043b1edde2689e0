"""Every recipe parses, builds, and says in its header how to run it and what to expect."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from golden_data import GOLDEN, TOKENIZER

from plgolf import GPT, GPTConfig
from plgolf.cli import main
from plgolf.config import config_from_dict
from plgolf.data.stream import plan_batches

CONFIGS = Path(__file__).parent.parent / "configs"
RECIPES = sorted(CONFIGS.glob("*.yaml"))
OVERLAYS = sorted(CONFIGS.glob("*/*.yaml"))


def resolved(capfd, *files: Path) -> dict:
    arguments = [word for file in files for word in ("-c", str(file))]
    with pytest.raises(SystemExit) as end:
        main(["fit", *arguments, "--print_config"])
    assert end.value.code == 0
    return yaml.safe_load(capfd.readouterr().out)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda p: p.stem)
def test_recipe_parses_and_builds(recipe, capfd):
    config = resolved(capfd, recipe)
    with torch.device("meta"):
        gpt = GPT(config_from_dict(GPTConfig, config["model"]["gpt"]))
    if recipe.stem == "baseline":
        assert sum(p.numel() for p in gpt.parameters()) == 17_059_912
        assert gpt.config == GPTConfig()
    header = recipe.read_text().split("\nseed_everything")[0]
    assert f"plgolf fit -c configs/{recipe.name}" in header
    assert re.search(r"val/bpb", header)
    assert re.search(r"\d s\b", header)


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda p: p.stem)
def test_overlay_goes_over_the_baseline(overlay, capfd):
    config = resolved(capfd, CONFIGS / "baseline.yaml", overlay)
    assert config["trainer"]["devices"] == 1
    assert config["trainer"]["strategy"] == "auto"


def test_the_baseline_means_the_same_on_one_gpu_and_on_eight(capfd):
    for overlays, ranks, accumulation in [([], 8, 1), ([CONFIGS / "hardware/one_gpu.yaml"], 1, 8)]:
        config = resolved(capfd, CONFIGS / "baseline.yaml", *overlays)
        assert config["trainer"]["devices"] == ranks
        keys = ("global_batch_tokens", "seq_len", "micro_batch_sequences")
        plan = plan_batches(**{k: config["data"][k] for k in keys}, world_size=ranks)
        assert (plan.sequences, plan.accumulation) == (12, accumulation)


def test_without_its_data_or_gpus_the_baseline_ends_in_one_line(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "-c", str(CONFIGS / "baseline.yaml"), "-c", str(CONFIGS / "hardware/cpu.yaml")]) == 2
    said = capfd.readouterr().err
    assert said.startswith("plgolf: error: data/datasets/fineweb10B_sp1024: no such folder")
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_baseline_trains_on_a_cpu(tmp_path, monkeypatch):
    """The real model in its real dtypes, on other data and short sequences."""
    monkeypatch.chdir(tmp_path)
    overlay = {
        "model": {"gpt": {"vocab_size": 512}},
        "data": {
            "root": str(GOLDEN / "tied"),
            "tokenizer": str(TOKENIZER),
            "seq_len": 128,
            "global_batch_tokens": 512,
            "micro_batch_sequences": 4,
            "val_batch_sequences": 4,
            "val_max_tokens": 1024,
        },
        "trainer": {"max_steps": 2},
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(overlay))
    files = [CONFIGS / "baseline.yaml", CONFIGS / "hardware/cpu.yaml", Path("small.yaml")]
    assert main(["fit", *(word for file in files for word in ("-c", str(file)))]) == 0
    result = json.loads((tmp_path / "checkpoints/baseline/result.json").read_text())
    assert result["num_params"] == 17_059_912 - 512 * 512
    assert result["within_budget"]
    assert result["artifact_bytes"] > 4_000_000
    assert result["roundtrip_val_loss"] == pytest.approx(result["val_loss"], rel=0.01)
    checkpoint = torch.load(tmp_path / "checkpoints/baseline/step-000002.ckpt", weights_only=True)
    dtypes = {str(p.dtype) for p in checkpoint["state_dict"].values()}
    assert dtypes == {"torch.bfloat16", "torch.float32"}
