"""The packed code of a run: what is in it, its size, and that it runs where there is no other plgolf."""

import ast
import bz2
import io
import json
import os
import subprocess
import sys
import tarfile
import textwrap
from pathlib import Path

import pytest
import yaml
from golden_run import golden_data

import plgolf
from plgolf.artifact import read_artifact
from plgolf.cli import main
from plgolf.errors import UserError
from plgolf.submission import Ledger
from plgolf.submission.archive import archive_files, extract_files
from plgolf.submission.packing import minify, pack_code
from plgolf.submission.packing.minify import minified
from plgolf.submission.packing.modules import Module
from plgolf.submission.packing.tree_shaking import keep_used
from plgolf.training.finish import packed_code
from plgolf.training.finish.packed_code import check_code, packed_config

ROOT = Path(plgolf.__file__).parent.parent
BARE = {"PATH": os.defpath, "OMP_NUM_THREADS": "1"}
"""Environment of a process that knows only installed packages."""


def bare(*words: str, folder: Path) -> str:
    command = [sys.executable, "-m", "plgolf", *words]
    done = subprocess.run(command, cwd=folder, env=BARE, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def sources(archive: bytes) -> dict[str, str]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        return {name: files.extractfile(name).read().decode() for name in files.getnames()}


@pytest.fixture(scope="module")
def run(golden_recipe_file, tmp_path_factory) -> Path:
    """A run of two steps whose packed code was checked."""
    folder = tmp_path_factory.mktemp("run")
    words = [f"--trainer.default_root_dir={folder}", "--trainer.max_steps=2", "--export.check_code=true"]
    assert main(["fit", "-c", str(golden_recipe_file), *words]) == 0
    return folder


@pytest.fixture(scope="module")
def result(run) -> dict:
    return json.loads((run / "result.json").read_text())


@pytest.mark.slow
def test_packed_code_trains_and_exports_the_same_in_a_bare_process(run, result, tmp_path):
    extract_files((run / "code.tar.bz2").read_bytes(), tmp_path)
    output = bare("fit", "-c", "config.yaml", "--trainer.default_root_dir=again", folder=tmp_path)
    assert "step:2/2 train_loss:" in output
    again = json.loads((tmp_path / "again" / "result.json").read_text())
    assert again["steps"] == 2 and again["roundtrip_val_bpb"] == result["roundtrip_val_bpb"]
    model = (tmp_path / "again" / "model.int8.ptz").read_bytes()
    assert model == (run / "model.int8.ptz").read_bytes()
    # Packed code packs itself as it is.
    packed = sources((tmp_path / "again" / "code.tar.bz2").read_bytes())
    ours = sources((run / "code.tar.bz2").read_bytes())
    assert packed.keys() == ours.keys()
    assert all(packed[name] == text for name, text in ours.items() if name != "config.yaml")


@pytest.mark.slow
def test_packed_code_scores_the_artifact_the_same_in_a_bare_process(run, result, tmp_path):
    extract_files((run / "code.tar.bz2").read_bytes(), tmp_path)
    path = run / "model.int8.ptz"
    output = bare("validate", "-c", "config.yaml", f"--ckpt_path={path}", folder=tmp_path)
    printed = float(output.split("val/bpb ")[1].split()[0])
    assert printed == pytest.approx(result["roundtrip_val_bpb"], abs=1e-6)


def test_the_check_is_in_result_json(run, result):
    code = result["code"]
    assert code["error"] is None and code["bpb_difference"] <= 1e-6 and code["check_seconds"] > 0
    assert code["minifier"].startswith("python-minifier ") and code["not_minified"] == []
    archive = (run / "code.tar.bz2").read_bytes()
    assert result["code_bytes"] == len(archive)
    assert code["num_modules"] == len(sources(archive)) - 1


def test_an_archive_holds_sources_without_docstrings_comments_and_traces_of_this_machine(run):
    archive = (run / "code.tar.bz2").read_bytes()
    files = sources(archive)
    for name, text in files.items():
        if name.endswith(".py"):
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                    assert ast.get_docstring(node) is None, name
    rooms = {Path(name).parts[1] for name in files if name.startswith("plgolf/")}
    assert {"model", "optim", "data", "training", "artifact.py", "__main__.py"} <= rooms
    assert not rooms & {"corpus", "report", "arguments", "generation", "cli.py"}
    with tarfile.open(fileobj=io.BytesIO(archive)) as entries:
        assert {(e.mtime, e.uid, e.gid, e.uname) for e in entries} == {(0, 0, 0, "")}
    assert str(ROOT) not in bz2.decompress(archive).decode().replace(str(ROOT / "tests"), "")


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        (
            "plgolf/training/optimizer_settings.py",
            "plgolf.roles",
            "plgolf.rules",
            "No module named 'plgolf.rules'",
        ),
        ("plgolf/model/head.py", "torch.tanh(", "1.01*torch.tanh(", "its score of a sample differs by"),
    ],
)
@pytest.mark.slow
def test_packed_code_that_does_not_work_fails_the_check(run, capsys, name, old, new, message):
    files = sources((run / "code.tar.bz2").read_bytes())
    assert files[name].count(old) == 1
    files[name] = files[name].replace(old, new)
    archive = archive_files({name: text.encode() for name, text in files.items()})
    data = golden_data()
    data.prepare_data()
    path = run / "model.int8.ptz"
    found = check_code(archive, path, read_artifact(path), data)
    assert message in found["error"], found
    assert f"the packed code failed its check: {found['error']}" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_a_run_whose_packed_code_fails_writes_everything_and_exits_with_1(
    golden_recipe, tmp_path, capfd, monkeypatch
):
    monkeypatch.setattr(packed_code, "pack_code", lambda config: pack_code("model: {gpt: {dims: 3}}"))
    words = [f"--trainer.default_root_dir={tmp_path}/run", "--export.check_code=true"]
    assert main(["fit", "-c", str(golden_recipe), "--trainer.max_steps=1", *words]) == 1
    error = capfd.readouterr().err
    assert "the packed code failed its check" in error and "see result.json" in error
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert "dims" in result["code"]["error"] and result["roundtrip_val_bpb"] > 0


PACK = """
import json, sys
from pathlib import Path
import plgolf.training.command.cli as cli
from plgolf.data.tokenizer import load_tokenizer
from plgolf.submission.packing import pack_code
from plgolf.training.finish.packed_code import packed_config

def packed(path):
    parser = cli.commands()["fit"]
    settings = parser.parse_args(["--config", path])
    return pack_code(packed_config(parser.dump(settings, skip_none=False)))

load_tokenizer(Path("tests/golden/tied/tokenizer.model"))  # As a run does.
sizes = {path: len(packed(path).archive) for path in sys.argv[1:]}
same = packed(sys.argv[1]).archive == packed(sys.argv[1]).archive
before = packed(sys.argv[1]).num_modules
import plgolf.data.tokenizer.cased
import plgolf.data.tokenizer.tiktoken_bpe
print(json.dumps([sizes, same, packed(sys.argv[1]).num_modules - before]))
"""


@pytest.fixture(scope="module")
def recipes() -> tuple[dict[str, int], bool, int]:
    """Bytes of the packed code of two recipes in a process of its own, as ``plgolf fit`` packs it."""
    words = ["configs/quickstart.yaml", "configs/baseline.yaml"]
    command = [sys.executable, "-c", PACK, *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.slow
def test_the_code_of_quickstart_and_baseline_has_at_most_45000_bytes(recipes):
    assert max(recipes[0].values()) <= 45_000, recipes[0]


def test_the_same_sources_and_settings_give_the_same_bytes(recipes):
    assert recipes[1]


def test_a_kind_of_tokenizer_is_packed_if_the_run_has_imported_it(recipes):
    # tiktoken's in one module, CaseOps in two.
    assert recipes[2] == 3


@pytest.mark.slow
def test_modules_of_the_user_are_packed_with_what_they_import_inside_functions(golden_recipe, tmp_path):
    (tmp_path / "my_parts.py").write_text(
        textwrap.dedent('''
        """Mine."""
        from lightning.pytorch import Callback

        class Mine(Callback):
            def __init__(self, text: str) -> None:
                self.text = text

            def on_train_start(self, trainer, pl_module):
                from my_words import shout
                print(shout(self.text))
        ''')
    )
    (tmp_path / "my_words.py").write_text("def shout(text):\n    return text.upper()\n")
    recipe = yaml.safe_load(golden_recipe.read_text())
    recipe["trainer"]["callbacks"] = [{"class_path": "my_parts.Mine", "init_args": {"text": "hello there"}}]
    golden_recipe.write_text(yaml.safe_dump(recipe))
    words = ["fit", "-c", str(golden_recipe), "--trainer.max_steps=1", "--export.check_code=true"]
    command = [sys.executable, "-m", "plgolf", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    extract_files((tmp_path / "run" / "code.tar.bz2").read_bytes(), tmp_path / "packed")
    assert {"my_parts.py", "my_words.py"} <= {path.name for path in (tmp_path / "packed").iterdir()}
    assert "HELLO THERE" in bare("fit", "-c", "config.yaml", folder=tmp_path / "packed")


def test_without_the_minifier_sources_are_still_stripped(monkeypatch):
    monkeypatch.setattr(minify, "MINIFIER", None)
    monkeypatch.setattr("plgolf.submission.packing.MINIFIER", None)
    pack_code.__globals__["_pack_modules"].cache_clear()
    packed = pack_code()
    pack_code.__globals__["_pack_modules"].cache_clear()
    assert packed.minifier is None and packed.not_minified == []
    text = sources(packed.archive)["plgolf/reference/rounding.py"]
    assert '"""' not in text and "#" not in text and "def quantize_int8(tensor):" in text


def test_a_source_that_the_minifier_fails_on_is_packed_as_it_is(monkeypatch):
    def fail(source, **_):
        raise ValueError("Unable to create representation for f-string")

    monkeypatch.setattr(minify, "minify", fail)
    assert minified("x = 1\n") is None


def test_minified_code_keeps_what_other_modules_and_settings_refer_to():
    source = textwrap.dedent("""
        import torch
        _STEP = 0.25
        _shared = 3
        class Part(torch.nn.Module):
            def __init__(self, dim: int, *, scale: float = 1.0):
                super().__init__()
                self.total = _scaled(dim, scale)
        def _scaled(number, factor):
            product = number * factor * _STEP
            return product
        """)
    short = minified(source, frozenset({"_shared"}))
    assert len(short) < 0.8 * len(source)
    for kept in ("class Part(torch.nn.Module)", "dim:int", "scale:float=1.", "_shared=3"):
        assert kept in short, short
    assert "_STEP" not in short and "product" not in short
    scope: dict = {}
    exec(short, scope)
    assert scope["Part"](4, scale=2.0).total == 2.0


def test_tree_shaking_removes_what_nothing_mentions():
    source = textwrap.dedent("""
        import json
        import math
        from plgolf.errors import RunError, UserError
        USED = 1
        UNUSED = json.dumps(2)
        table = {}
        table["a"] = math.pi
        def entry():
            return helper() + USED
        def helper():
            raise UserError
        def alone():
            raise RunError
        @register
        def registered():
            pass
        """)
    module = Module(ast.parse(source), "plgolf/a.py")
    keep_used({"plgolf.a": module}, {"entry"})
    names = [ast.unparse(node).split("(")[0].split("=")[0].strip() for node in module.tree.body]
    assert names == [
        "import math",
        "from plgolf.errors import UserError",
        "USED",
        "table",
        "table['a']",
        "def entry",
        "def helper",
        "@register\ndef registered",
    ]
    users = Module(ast.parse("import json\nx = 1\n"), "mine.py")
    keep_used({"mine": users}, set())
    assert len(users.tree.body) == 2


def test_the_packed_configuration_leaves_out_what_packed_code_does_not_use():
    config = (
        "seed_everything: 7\n"
        "trainer: {max_steps: 3, accelerator: auto, precision: null}\n"
        "data: {root: a, corpus: stdlib}\n"
        "console: {style: bar, every_steps: 9}\n"
        "samples: {prompts: [a]}\n"
        "checkpoint: {every_seconds: 9.0}\n"
        "ckpt_path: last.ckpt\n"
        "resume: auto\n"
    )
    assert yaml.safe_load(packed_config(config)) == {
        "seed_everything": 7,
        "trainer": {"max_steps": 3},
        "data": {"root": "a"},
        "console": {"style": "reference", "every_steps": 9},
    }
    assert packed_config("") == ""


def test_the_packed_configuration_leaves_out_defaults_at_every_depth():
    config = (
        "model:\n"
        "  gpt: {dim: 64, num_layers: 9, attention: {num_heads: 8, qk_gain: 2.0}, mlp: {expansion: 2.0}}\n"
        "  optimizer:\n"
        "    class_path: plgolf.MuonAdam\n"
        "    init_args: {matrix: {lr: 0.02, momentum: 0.9}, embedding: {lr: 0.03, betas: [0.9, 0.95]}}\n"
        "  nonfinite: stop\n"
        "clock: {max_seconds: 9.0, agree_seconds: null}\n"
        "checkpoint: {every_seconds: 60.0}\n"
        "trainer: {callbacks: [{class_path: lightning.pytorch.callbacks.EMAWeightAveraging, "
        "init_args: {decay: 0.9, use_buffers: true}}, "
        "{class_path: lightning.pytorch.callbacks.ModelCheckpoint}]}\n"
    )
    assert yaml.safe_load(packed_config(config)) == {
        "model": {
            "gpt": {"dim": 64, "attention": {"qk_gain": 2.0}},
            "optimizer": {
                "class_path": "plgolf.MuonAdam",
                "init_args": {"matrix": {"momentum": 0.9}, "embedding": {"lr": 0.03}},
            },
        },
        "clock": {"max_seconds": 9.0},
        "trainer": {
            "callbacks": [
                {
                    "class_path": "lightning.pytorch.callbacks.EMAWeightAveraging",
                    "init_args": {"decay": 0.9},
                }
            ]
        },
        "console": {"style": "reference"},
    }


def test_a_source_with_a_syntax_error_is_named(tmp_path, monkeypatch):
    (tmp_path / "my_whole.py").write_text("class Part:\n    def use(self):\n        import my_broken\n")
    (tmp_path / "my_broken.py").write_text("def f(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"my_broken\.py: cannot be packed: invalid syntax"):
        pack_code("a: {class_path: my_whole.Part}")


def test_the_budget_counts_both_parts():
    assert not Ledger(15_999_999, 2).within_budget and Ledger(15_999_999, 1).within_budget


PARTS = """
from dataclasses import replace
from plgolf.model import GPTConfig
from plgolf.submission.packing import pack_code
import yaml, sys, io, json, tarfile
config = yaml.safe_dump({"model": {"gpt": yaml.safe_load(sys.argv[1])}})
with tarfile.open(fileobj=io.BytesIO(pack_code(config).archive)) as files:
    print(json.dumps(files.getnames()))
"""


@pytest.mark.parametrize("parts", [{}, {"exclusive": {"layers": "last 2"}, "smear_gate": None}])
def test_parts_of_the_model_are_packed_if_the_configuration_uses_them(parts):
    words = [sys.executable, "-c", PARTS, json.dumps({"dim": 64, "recurrence": None, "parts": parts})]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    files = {name for name in json.loads(done.stdout) if "/parts/" in name}
    expected = {"__init__"} | ({"exclusive", "ports"} if parts else set())
    assert {Path(name).stem for name in files} == expected
