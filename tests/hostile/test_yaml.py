"""Hostile recipes: made to run a program or to fill the memory."""

import os
import time

import pytest
import yaml

from plgolf.arguments import SettingsParser
from plgolf.arguments.bounded_yaml import load_bounded_yaml
from plgolf.cli import main
from plgolf.model import GPTConfig
from plgolf.training.command.cli import GolfCLI


@pytest.fixture
def fit(golden_recipe, tmp_path, monkeypatch, capsys):
    """Fits a recipe with one setting replaced; returns the error line."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(GolfCLI, "instantiate_classes", lambda _: pytest.fail("constructs"))

    def run(key: str, value: object) -> str:
        recipe = yaml.safe_load(golden_recipe.read_text())
        *sections, name = key.split(".")
        section = recipe
        for part in sections:
            section = section[part]
        section[name] = value
        return refused(yaml.safe_dump(recipe).encode())

    def refused(data: bytes) -> str:
        path = tmp_path / "x.yaml"
        path.write_bytes(data)
        before = time.monotonic()
        assert main(["fit", "-c", "x.yaml"]) == 2
        assert time.monotonic() - before < 20
        error = capsys.readouterr().err
        assert error.startswith("plgolf: error: ") and error.count("\n") == 1
        assert sorted(p.name for p in tmp_path.iterdir()) == ["golden.yaml", "x.yaml"]
        return error

    run.raw = refused
    return run


KEYS = ("callbacks", "logger", "strategy", "plugins", "profiler")
TOUCH = ["touch", "ran"]


@pytest.mark.parametrize("key", ["model.optimizer", "model.schedule", *(f"trainer.{key}" for key in KEYS)])
def test_only_subclasses_of_the_expected_class_are_constructed(key, fit, monkeypatch):
    called = []
    monkeypatch.setattr(os, "system", lambda command="": called.append(command))
    for value in (
        {"class_path": "os.system"},
        {"class_path": "os.system", "init_args": {"command": "touch ran"}},
        {"class_path": "os.getcwd"},
        {"class_path": "builtins.eval"},
        {"class_path": "subprocess.Popen", "init_args": {"args": TOUCH}},
        {"class_path": "subprocess.Popen", "dict_kwargs": {"args": TOUCH}},
        {"class_path": "collections.OrderedDict"},
        *(["os.system"] if key not in ("trainer.strategy", "trainer.profiler") else []),
    ):
        fit(key, [value] if key in ("trainer.callbacks", "trainer.plugins") else value)
    assert not called


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "model.optimizer",
            {"class_path": "os.getcwd"},
            "model.optimizer must name a subclass of Optimizer, got os.getcwd",
        ),
        (
            "trainer.callbacks",
            [{"class_path": "LambdaCallback", "init_args": {"on_fit_start": "os.getcwd"}}],
            "on_fit_start of LambdaCallback must be a function, which can be set in Python only",
        ),
        (
            "trainer.callbacks",
            [{"class_path": "LambdaCallback", "init_args": {"on_fit_start": {"class_path": "os.getcwd"}}}],
            "trainer.callbacks.on_fit_start of LambdaCallback must be a function",
        ),
        (
            "trainer.strategy",
            {
                "class_path": "DDPStrategy",
                "init_args": {"ddp_comm_hook": "os.abort"},
            },
            "trainer.strategy.ddp_comm_hook of DDPStrategy must be a function",
        ),
    ],
)
def test_functions_are_refused(key, value, message, fit):
    assert message in fit(key, value)


def test_too_large_sizes_are_refused_before_anything_is_built():
    for values in ({"dim": 10**30}, {"vocab_size": 2**40}, {"num_layers": 10**9}):
        with pytest.raises(ValueError, match="must be at most"):
            GPTConfig(**values)


NINE = ",".join("*{0}" for _ in range(9))
LAUGHS = "a0: &a0 [1,2,3]\n" + "".join(f"a{i + 1}: &a{i + 1} [{NINE.format(f'a{i}')}]\n" for i in range(9))
MERGES = "a0: &a0 {k: 1}\n" + "".join(
    f"a{i + 1}: &a{i + 1} {{<<: [{NINE.format(f'a{i}')}]}}\n" for i in range(9)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("!!python/object/apply:os.system ['touch ran']", "could not determine a constructor for the tag"),
        ("model: !!python/object/apply:os.system ['touch ran']", "could not determine a constructor"),
        ("model: !!python/name:os.system", "could not determine a constructor"),
        ("model: !!python/object/new:subprocess.Popen [[touch, ran]]", "could not determine a constructor"),
        (LAUGHS, "must have at most 10000 values, aliases written out"),
        (MERGES, "must have at most 10000 values, aliases written out"),
        ("model: &a [*a]", "must have at most 10000 values, aliases written out"),
        ("model: *a", "found undefined alias"),
        ("[" * 10_000_000, "must have at most 262144 bytes, got 10000000"),
        ("[" * 200_000, "must be nested at most 50 deep"),
        ("model: " + "{a: " * 2000 + "1" + "}" * 2000, "must be nested at most 50 deep"),
        ("".join(f"k{i}: 1\n" for i in range(20_000)), "must have at most 10000 values"),
        ("model: {gpt: {dim: !!int x}}", "x.yaml: not a YAML recipe: invalid literal for int()"),
        ("model: {gpt: {dim: " + "9" * 5000 + "}}", "a string must have at most 4096 characters"),
        ("a: \0", "x.yaml: not a YAML recipe: unacceptable character"),
        ("model: '" + "[" * 200_000 + "'", "a string must have at most 4096 characters"),
        ("model: {gpt: '" + "[" * 1000 + "'}", "must be nested at most 50 deep"),
        ("model: {optimizer: '" + "--- " * 1000 + "'}", "must be nested at most 50 deep"),
        ("model: {optimizer: '" + "- " * 1000 + "'}", "must be nested at most 50 deep"),
        (yaml.safe_dump({"trainer": {"callbacks": LAUGHS}}), "must have at most 10000 values"),
        (yaml.safe_dump({"a": yaml.safe_dump({"b": LAUGHS})}), "must have at most 10000 values"),
        ("model:\n  gpt: {}\n  gpt: {dim: 8}\n", "the key gpt occurs twice, again in line 3"),
        ("trainer: {callbacks: [{a: 1, a: 2}]}", "the key a occurs twice, again in line 1"),
        ("[1, 2]", "x.yaml: not a YAML recipe: it must map names to settings"),
        ("", "x.yaml: not a YAML recipe: it must map names to settings"),
    ],
)
def test_yaml_bombs_and_tags_give_one_line(text, message, fit):
    assert message in fit.raw(text.encode())


def test_a_recipe_must_be_utf8_in_a_regular_file(fit, tmp_path, capsys):
    assert "x.yaml: not a YAML recipe: 'utf-8' codec" in fit.raw("modèl: 1".encode("latin1"))
    os.mkfifo(tmp_path / "pipe.yaml")
    for path in ("pipe.yaml", "/dev/zero", str(tmp_path), "none.yaml"):
        assert main(["fit", "-c", path]) == 2
        assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("path", ["x" * 255, "x/" * 120, "a folder/" * 400])
def test_long_paths_are_accepted(fit, path):
    assert load_bounded_yaml(yaml.safe_dump({"data": {"root": path}})) == {"data": {"root": path}}
    parser = SettingsParser()
    parser.add_argument("--root", type=str)
    assert parser.parse([f"--root={path}"]).root == path == parser.parse(["--root", path]).root


@pytest.mark.slow
def test_values_on_the_command_line_are_bounded_too(fit, capsys):
    for value in ("[" * 200_000, "[" * 2000, "{a: " * 60, LAUGHS):
        assert main(["fit", "--trainer.callbacks", value]) == main(["fit", f"--model={value}"]) == 2
        assert capsys.readouterr().err.count("\n") == 2
