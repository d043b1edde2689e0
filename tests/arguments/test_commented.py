"""``--print_config``: a minimal commented recipe that gives the same configuration when it is read."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from plgolf.arguments.bounded_yaml import load_bounded_yaml
from plgolf.arguments.commented import to_commented_yaml
from plgolf.arguments.settings import ListingParser
from plgolf.cli import main

MORE = {
    "seed_everything": True,
    "model": {"schedule": {"class_path": "plgolf.optim.Constant"}},
    "export": {"compressors": []},
    "checkpoint": {"every_seconds": None},
    "trainer": {
        "callbacks": [
            {"class_path": "LearningRateMonitor", "init_args": {"logging_interval": "step"}},
            {"class_path": "EarlyStopping", "init_args": {"monitor": "val/bpb"}},
        ],
        "logger": {"class_path": "CSVLogger", "init_args": {"save_dir": "out", "name": "a: #b"}},
        "default_root_dir": "a # b",
    },
}


@pytest.fixture
def printed(tmp_path, monkeypatch, capfd):
    def printed(*words):
        with pytest.raises(SystemExit) as end:
            main(["fit", *words])
        assert end.value.code == 0
        return capfd.readouterr().out

    monkeypatch.chdir(tmp_path)
    return printed


@pytest.mark.slow
def test_the_printed_recipe_gives_the_same_configuration(printed, tmp_path, golden_recipe):
    (tmp_path / "more.yaml").write_text(yaml.safe_dump(MORE))
    for words in (["-c", golden_recipe.name], ["-c", golden_recipe.name, "-c", "more.yaml"], []):
        text = printed(*words, "--print_config")
        (tmp_path / "printed.yaml").write_text(text)
        assert printed("-c", "printed.yaml", "--print_config=full") == printed(*words, "--print_config=full")
        assert printed("-c", "printed.yaml", "--print_config") == text


def test_the_printed_recipe_has_only_what_differs_with_a_comment_each(printed, golden_recipe):
    text = printed("-c", golden_recipe.name, "--clock.max_seconds=60", "--print_config")
    lines = [line.strip() for line in text.splitlines()]
    assert "dim: 64  # width of the residual stream [512]" in lines
    assert "max_seconds: 60.0  # training seconds after which the run ends; null for no limit [null]" in lines
    assert "steps: 4  # length of the warm-down in optimizer steps; 0 for none [3000]" in lines
    assert "newton_schulz_dtype: float32  # dtype of these iterations [bfloat16]" in lines
    assert "embedding_std" not in text and "momentum" not in text
    assert all(len(line) <= 110 for line in lines if not line.startswith(("root:", "tokenizer:")))
    assert yaml.safe_load(text)["trainer"]["max_steps"] == 10
    assert yaml.safe_load(printed("--print_config")) in (None, {})


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.text(max_size=30)
    | st.floats(allow_nan=False, allow_infinity=False)
)
NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)


@given(
    values=st.recursive(
        st.dictionaries(NAMES, SCALARS | st.lists(SCALARS, max_size=3), max_size=4),
        lambda inner: st.dictionaries(NAMES, inner | SCALARS, max_size=3),
        max_leaves=12,
    ),
    text=st.text(max_size=200),
    value=SCALARS,
    default=st.text(max_size=20),
)
def test_comments_never_break_the_yaml(values, text, value, default):
    parser = ListingParser(prog="plgolf fit")
    parser.add_argument("--setting", type=str, default=default, help=text.replace("%", "%%"))
    written = to_commented_yaml({**values, "setting": value}, parser)
    assert load_bounded_yaml(written) == {**values, "setting": value}


def test_settings_at_their_defaults_give_an_empty_recipe():
    assert load_bounded_yaml(to_commented_yaml({}, ListingParser(prog="plgolf fit"))) == {}
