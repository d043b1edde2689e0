"""Where recipes come from: stdin, a run's folder, files named by other files."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from plgolf.cli import main


@pytest.fixture
def configuration(capfd):
    """Returns the complete configuration of a command line."""

    def configuration(*words):
        with pytest.raises(SystemExit) as end:
            main([*words, "--print_config=full"])
        assert end.value.code == 0
        return yaml.safe_load(capfd.readouterr().out)

    return configuration


def plgolf(*words, cwd, **how):
    command = [sys.executable, "-m", "plgolf", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=240, **how)


@pytest.mark.parametrize("kind", ["pipe", "file"])
@pytest.mark.slow
def test_a_recipe_comes_from_stdin(kind, tmp_path):
    text = "model: {gpt: {dim: 96}}\ndata: {root: '1e3'}\n"
    (tmp_path / "recipe.yaml").write_text(text)
    with (tmp_path / "recipe.yaml").open() as file:
        how = {"input": text} if kind == "pipe" else {"stdin": file}
        done = plgolf(
            "fit", "-c", "-", "--model.gpt.num_layers=2", "--print_config=full", cwd=tmp_path, **how
        )
    assert done.returncode == 0, done.stderr
    config = yaml.safe_load(done.stdout)
    assert (config["model"]["gpt"]["dim"], config["model"]["gpt"]["num_layers"]) == (96, 2)
    assert config["data"]["root"] == "1e3"


@pytest.mark.slow
def test_a_wrong_recipe_on_stdin_gives_one_line(tmp_path):
    for text, message in [
        ("clock: {max_second: 3}", "stdin: plgolf fit has no setting clock.max_second (did you mean"),
        ("[1]", "stdin: not a YAML recipe: it must map names to settings"),
        ("a: " + "x" * 2**20, "stdin: not a YAML recipe: it must have at most 262144 characters"),
    ]:
        done = plgolf("fit", "-c", "-", cwd=tmp_path, input=text)
        assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.slow
def test_every_rank_gets_the_recipe_from_stdin(golden_recipe, tmp_path):
    words = ("--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.max_steps=1")
    done = plgolf("fit", "-c", "-", *words, cwd=tmp_path, input=golden_recipe.read_text())
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "result.json").exists()


def test_validate_passes_over_what_only_fit_uses(golden_recipe, tmp_path, monkeypatch, configuration):
    monkeypatch.chdir(tmp_path)
    recipe = yaml.safe_load(golden_recipe.read_text())
    Path("resumed.yaml").write_text(yaml.safe_dump({**recipe, "resume": "auto"}))
    wanted = configuration("validate", "-c", golden_recipe.name)
    assert configuration("validate", "-c", "resumed.yaml") == wanted
    assert "resume" not in wanted


@pytest.mark.slow
def test_validate_takes_the_configuration_of_a_run(golden_recipe, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "-c", golden_recipe.name, "--trainer.max_steps=1", "--resume=auto"]) == 0
    assert yaml.safe_load(Path("run/config.yaml").read_text())["resume"] == "auto"
    assert main(["validate", "-c", "run/config.yaml", "--ckpt_path=run/model.int8.ptz"]) == 0
    assert "val/bpb " in capfd.readouterr().out


def test_fit_passes_over_what_only_validate_uses(golden_recipe, tmp_path, monkeypatch, configuration):
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(yaml.safe_dump(configuration("validate", "-c", golden_recipe.name)))
    assert configuration("fit", "-c", "config.yaml")["model"]["gpt"]["dim"] == 64


def test_a_group_may_be_in_a_file_of_its_own(tmp_path, monkeypatch, configuration, capfd):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("folder/gpt.yaml").write_text("dim: 96\n")
    Path("folder/recipe.yaml").write_text("model: {gpt: gpt.yaml}\n")
    assert configuration("fit", "-c", "folder/recipe.yaml")["model"]["gpt"]["dim"] == 96
    assert configuration("fit", "--model.gpt=folder/gpt.yaml")["model"]["gpt"]["dim"] == 96
    Path("folder/gpt.yaml").write_text("dimm: 96\n")
    assert main(["fit", "-c", "folder/recipe.yaml"]) == 2
    assert "plgolf fit has no setting model.gpt.dimm (did you mean model.gpt.dim?)" in capfd.readouterr().err
