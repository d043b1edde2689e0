"""``--help``: one line per key within the width, and everything about a key that is asked for."""

import re
import subprocess
import sys

import pytest
import yaml

from plgolf.arguments.wording import describe_type, shorten, strip_markup
from plgolf.cli import main
from plgolf.corpus.cli import parser as data_parser
from plgolf.generation.cli import parser as generate_parser
from plgolf.report.cli import parser as report_parser
from plgolf.training.command.cli import commands

OURS = ("model", "data", "clock", "warmup", "export", "checkpoint", "peers", "console")


@pytest.fixture
def say(capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")

    def say(*words, status=0):
        try:
            code = main(list(words))
        except SystemExit as end:
            code = end.code
        assert code == status
        return "".join(capfd.readouterr())

    return say


@pytest.mark.parametrize(
    "command", ["fit", "validate", "data prepare", "data download", "data verify", "generate", "report"]
)
def test_each_key_has_a_line_with_its_meaning_and_default(command, say):
    first, *rest = command.split()
    parsers = {
        **commands(),
        **data_parser().commands,
        "generate": generate_parser(),
        "report": report_parser(),
    }
    parser = parsers[rest[0] if rest else first]
    page = say(*command.split(), "--help")
    lines = page.splitlines()
    assert max(map(len, lines)) <= 100
    assert "Namespace" not in page and "``" not in page and "Optional[" not in page
    for key, setting in parser.all_settings.items():
        row = rf"^  (?:--)?{re.escape(key)} .*(?:\n {{10,}}.*)*"  # A long one continues below its text.
        shown = re.findall(row, page, re.IGNORECASE | re.MULTILINE)
        if key.startswith("trainer.") and not shown:
            continue
        assert len(shown) == 1, key
        assert re.search(r"  \w", shown[0].strip()), key
        assert setting.num_words == 0 or re.search(r"(\[.*\])$", shown[0]), key


def test_our_settings_come_first_and_lightnings_in_our_words(say):
    page = say("fit", "--help")
    groups = re.findall(r"^(\w[\w.]*)(?: of \w+)?: ", page, re.MULTILINE)
    assert groups[0] == "usage" and groups[1] == "model" and groups[-1] == "trainer"
    assert [name for name in groups if name in OURS] == list(OURS)
    for key in ("devices", "accelerator", "strategy", "max_steps", "default_root_dir", "logger", "precision"):
        assert f"  --trainer.{key} " in page
    assert "--trainer.sync_batchnorm" not in page
    assert "--model.optimizer.matrix.lr " in page and "--model.schedule.steps " in page
    whole = say("fit", "--help", "all")
    for key in commands()["fit"].all_settings:
        assert f"  --{key}\n" in whole, key


def test_a_key_a_group_or_a_class_is_explained(say):
    said = say("fit", "--help", "model.gpt.compute_dtype")
    assert "Other parameters are always float32" in said and "bfloat16, float32 or auto" in said
    assert "num_layers" not in said
    said = say("fit", "--help", "trainer")
    assert "--trainer.sync_batchnorm" in said and "--model" not in said
    assert "MuonAdam, " in say("fit", "--help", "model.optimizer")
    said = say("fit", "--help", "model.optimizer=AdamW")
    assert "--model.optimizer.weight_decay" in said and "matrix" not in said
    assert "plgolf fit has no setting max_second (did you mean clock.max_seconds?)" in say(
        "fit", "--help", "max_second", status=2
    )
    assert "must name one of MuonAdam, " in say("fit", "--help", "model.optimizer=AdamX", status=2)
    assert say("data", "prepare", "--help") == say("data", "--help", "prepare")
    assert say("generate", "--help", "--top_k=3") == say("generate", "--help")


def test_help_fits_a_narrow_terminal(say, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    assert max(map(len, say("data", "prepare", "--help").splitlines())) <= 60


def test_types_and_texts_are_written_for_readers():
    assert describe_type(int | None) == "a whole number or null"
    assert describe_type(tuple[float, float]) == "a list of 2, each a number"
    assert strip_markup("Stop :paramref:`~a.b.C.callbacks`.\n Default: ``True``.") == "Stop callbacks"
    assert shorten("one; two. three", "[4]", 12) == "one; two [4]"
    assert shorten("onetwothree four", "[4]", 3) == "onetwothree four [4]"


def test_settings_of_a_class_need_no_class_path(golden_recipe, tmp_path, monkeypatch, say):
    monkeypatch.chdir(tmp_path)
    flags = ["--model.optimizer.matrix.lr=0.5", "--model.schedule.steps=7"]
    config = yaml.safe_load(say("fit", "-c", golden_recipe.name, *flags, "--print_config=full"))
    assert config["model"]["optimizer"]["init_args"]["matrix"]["lr"] == 0.5
    assert config["model"]["schedule"]["init_args"]["steps"] == 7
    config = yaml.safe_load(say("fit", *flags, "--print_config=full"))
    assert config["model"]["schedule"]["class_path"] == "plgolf.optim.Warmdown"
    assert config["model"]["schedule"]["init_args"]["steps"] == 7


def test_help_of_data_needs_no_torch():
    code = """
import sys
from plgolf.cli import main
try:
    main(["data", "prepare", "--help"])
except SystemExit:
    sys.exit("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0
