"""Every recipe parses, builds, and says in its header how to run it and what to expect."""

import itertools
import json
import pydoc
import re
from collections.abc import Iterable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
import yaml
from golden_data import GOLDEN, TOKENIZER

from plgolf import GPT, GPTConfig, load_artifact
from plgolf.cli import main
from plgolf.config import config_from_dict
from plgolf.data.stream import plan_batches
from plgolf.training.further_targets import FurtherTargets

CONFIGS = Path(__file__).parent.parent / "configs"
OVERLAYS = sorted(path for path in CONFIGS.rglob("*.yaml") if "# Overlay:" in path.read_text())
RECIPES = sorted(set(CONFIGS.rglob("*.yaml")) - set(OVERLAYS))
PARTS = [path for path in OVERLAYS if path.parent.name == "parts"]
LOSSES = [path for path in OVERLAYS if path.parent.name == "losses"]
OPTIM = [path for path in OVERLAYS if path.parent.name == "optim"]
OTHERS = [path for path in OVERLAYS if path not in PARTS + LOSSES + OPTIM]
WITH_OVERLAYS = [(recipe,) for recipe in RECIPES] + [(CONFIGS / "baseline.yaml", over) for over in OTHERS]
ALONE = {"adamw", "bi_maxwell", "overtone"}
"""Overlays of the optimizer that do not go with the others."""
TOGETHER = [[path for path in OPTIM if (path.stem in ALONE) is alone] for alone in (False, True)]
WITH_OVERLAYS += [(CONFIGS / "quickstart.yaml", *overlays) for overlays in (PARTS, *TOGETHER)]


def names(files: tuple[Path, ...]) -> str:
    return "+".join(file.stem for file in files[:2])


def given(files: Iterable[Path | str]) -> list[str]:
    return [word for file in files for word in ("-c", str(file))]


def resolved(capfd, *files: Path | str) -> dict:
    arguments = given(files)
    with pytest.raises(SystemExit) as end:
        main(["fit", *arguments, "--print_config=full"])
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
    header = header_of(recipe)
    assert f"plgolf fit -c configs/{recipe.relative_to(CONFIGS)}" in header
    assert re.search(r"val/bpb", header)
    assert re.search(r"\d s\b", header)


@pytest.mark.parametrize("overlay", PARTS, ids=lambda path: path.stem)
def test_an_overlay_of_a_part_fits_the_quickstart(overlay):
    settings = yaml.safe_load((CONFIGS / "quickstart.yaml").read_text())["model"]["gpt"]
    changes = yaml.safe_load(overlay.read_text())["model"]["gpt"]
    settings["attention"] |= changes.pop("attention", {})
    config = config_from_dict(GPTConfig, {**settings, **changes})
    [name] = config.parts.in_use()
    assert name in changes["parts"] and changes.keys() == {"parts"}


@pytest.mark.parametrize("overlay", LOSSES, ids=lambda path: path.stem)
def test_an_overlay_of_a_loss_adds_a_callback(overlay):
    [callback] = yaml.safe_load(overlay.read_text())["trainer"]["callbacks+"]
    assert issubclass(pydoc.locate(callback["class_path"]), FurtherTargets)
    pydoc.locate(callback["class_path"])(**callback.get("init_args", {}))


def header_of(recipe: Path) -> str:
    comments = itertools.takewhile(lambda line: line.startswith("#"), recipe.read_text().splitlines())
    return " ".join(line.removeprefix("#").strip() for line in comments)


def test_the_readme_lists_every_file_with_the_figures_of_its_header():
    table = (CONFIGS / "README.md").read_text()
    rows = {row.split("](")[1].split(")")[0]: row for row in table.splitlines() if row.startswith("| [")}
    assert set(rows) == {str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.yaml")}
    for file, row in rows.items():
        header = header_of(CONFIGS / file)
        *_, seconds, score, command, _ = (cell.strip() for cell in row.split("|"))
        assert command.strip("`") in header
        for figure in re.findall(r"\d+\.\d{3,}", score) + re.findall(r"\d+(?= s\b)", seconds):
            assert re.search(rf"(?<![\d.]){re.escape(figure)}(?![\d.]*\d)", header), (file, figure)


@pytest.mark.parametrize("files", WITH_OVERLAYS, ids=names)
def test_the_printed_recipe_is_the_same(files, capfd, tmp_path):
    """Minimal, commented, and complete."""
    with pytest.raises(SystemExit):
        main(["fit", *given(files), "--print_config"])
    text = capfd.readouterr().out
    (tmp_path / "printed.yaml").write_text(text)
    assert resolved(capfd, tmp_path / "printed.yaml") == resolved(capfd, *files)
    # A comment gives way to its value.
    assert all(len(line) <= 120 or len(line.split("  #")[0]) > 90 for line in text.splitlines())


def test_the_readmes_own_overlay_works(capfd, tmp_path):
    blocks = re.findall(r"```yaml\n(.*?)```", (CONFIGS / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 1
    (tmp_path / "wide.yaml").write_text(blocks[0])
    config = resolved(capfd, CONFIGS / "quickstart.yaml", tmp_path / "wide.yaml")
    assert config["model"]["gpt"]["dim"] == 192 and config["model"]["gpt"]["num_layers"] == 4
    matrix = config["model"]["optimizer"]["init_args"]["matrix"]
    assert (matrix["lr"], matrix["momentum"]) == (0.005, 0.95)
    with torch.device("meta"):
        GPT(config_from_dict(GPTConfig, config["model"]["gpt"]))


@pytest.mark.parametrize("overlay", sorted(CONFIGS.glob("hardware/*.yaml")), ids=lambda p: p.stem)
def test_hardware_overlay_goes_over_the_baseline(overlay, capfd):
    config = resolved(capfd, CONFIGS / "baseline.yaml", overlay)
    assert config["trainer"]["devices"] == 1
    assert config["trainer"]["strategy"] == "auto"


@pytest.mark.parametrize("overlay", OTHERS, ids=lambda p: p.stem)
def test_overlay_leaves_the_model_and_any_optimizer(overlay, capfd, tmp_path):
    """Artifacts of the recipe can be scored with it, and a recipe may have another optimizer."""
    baseline, other = CONFIGS / "baseline.yaml", tmp_path / "other.yaml"
    other.write_text("model: {optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 0.002}}}")
    model = resolved(capfd, baseline, other, overlay)["model"]
    assert model["gpt"] == resolved(capfd, baseline)["model"]["gpt"]
    assert model["optimizer"]["class_path"] == "torch.optim.AdamW"
    assert model["optimizer"]["init_args"]["lr"] == 0.002


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


SMALL = {
    "model": {"gpt": {"vocab_size": 512, "dim": 32}, "compile": False},
    "data": {
        "root": str(GOLDEN / "tied"),
        "tokenizer": str(TOKENIZER),
        "corpus": None,
        "seq_len": 64,
        "global_batch_tokens": 256,
        "micro_batch_sequences": 2,
        "val_batch_sequences": 4,
        "val_max_tokens": 512,
    },
    "warmup": {"steps": 1},
    "trainer": {
        "accelerator": "cpu",
        "devices": 1,
        "strategy": "auto",
        "max_steps": 2,
        "num_sanity_val_steps": 0,
        "default_root_dir": "run",
    },
}
"""Two steps of any recipe on any machine: its own layers, heads, dtypes and settings, narrow and short."""


@pytest.mark.parametrize("files", WITH_OVERLAYS, ids=names)
@pytest.mark.slow
def test_two_steps_of_a_recipe_end_with_an_artifact(files, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    small = deepcopy(SMALL)
    if files[0].stem == "quickstart":  # Some overlays need a width that its layers have.
        del small["model"]["gpt"]["dim"]
    Path("small.yaml").write_text(yaml.safe_dump(small))
    config = resolved(capfd, *files)
    assert main(["fit", *given([*files, "small.yaml"])]) == 0
    result = json.loads(Path("run/result.json").read_text())
    assert result["steps"] == 2 and result["within_budget"] and result["seed"] == config["seed_everything"]
    [path] = Path("run").glob("model.*")
    gpt = load_artifact(path).gpt
    assert gpt.config.num_layers == config["model"]["gpt"]["num_layers"]
    assert gpt.config.attention.num_heads == config["model"]["gpt"]["attention"]["num_heads"]
    assert result["roundtrip_val_loss"] == pytest.approx(result["val_loss"], rel=0.05)


@pytest.mark.slow
def test_the_baseline_trains_on_a_cpu(tmp_path, monkeypatch):
    """The real model in its real dtypes, on other data and short sequences.

    The optimizer's products alone are float32 on a CPU without bfloat16, where they would take minutes.
    """
    monkeypatch.chdir(tmp_path)
    overlay = {
        "model": {
            "gpt": {"vocab_size": 512},
            "optimizer": {"init_args": {"matrix": {"newton_schulz_dtype": "auto"}}},
        },
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
    assert main(["fit", *given(files)]) == 0
    result = json.loads((tmp_path / "checkpoints/baseline/result.json").read_text())
    assert result["num_params"] == 17_059_912 - 512 * 512
    assert result["within_budget"]
    assert result["artifact_bytes"] > 4_000_000
    assert result["roundtrip_val_loss"] == pytest.approx(result["val_loss"], rel=0.01)
    checkpoint = torch.load(tmp_path / "checkpoints/baseline/step-000002.ckpt", weights_only=True)
    dtypes = {str(p.dtype) for p in checkpoint["state_dict"].values()}
    assert dtypes == {"torch.bfloat16", "torch.float32"}
