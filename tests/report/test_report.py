"""``plgolf report``: what it writes, where, and what it says."""

import builtins
import json
import re
import sys
import time
from html.parser import HTMLParser

import matplotlib.image
import pytest
from report.folders import write_groups, write_run

from plgolf.cli import main
from plgolf.report.cli import aligned
from plgolf.report.pictures import NAMES
from plgolf.report.stylesheet import HEAT_STEPS, heat_class
from plgolf.report.writing import write_report


class Outline(HTMLParser):
    """Which elements a page has, whether they are closed, and what would be fetched."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.count, self.fetched, self.texts = [], {}, [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.count[tag] = self.count.get(tag, 0) + 1
        given = dict(attributes)
        for name in ("src", "href", "xlink:href", "data", "srcset", "action"):
            if name in given and not given[name].startswith(("#", "data:")):
                self.fetched.append(given[name])
        if tag not in ("meta", "link", "br", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_data(self, data):
        self.texts.append(data)


def outline(path) -> Outline:
    found = Outline(path.read_text(encoding="utf-8"))
    assert found.open == [] and found.fetched == []
    assert not re.search(r"url\((?!#)|@import", path.read_text(encoding="utf-8"))
    return found


def test_one_run_becomes_a_page_in_its_folder(tmp_path, capsys):
    folder = write_run(tmp_path / "base", tokenizer_bytes=254_134)
    assert main(["report", str(folder)]) == 0
    said = capsys.readouterr().out
    assert f"report: wrote {folder}/report.html" in said and "11 pictures" in said
    page = outline(folder / "report.html")
    text = " ".join(page.texts)
    result = json.loads((folder / "result.json").read_text())
    for shown in (
        f"{result['roundtrip_val_bpb']:.4f}",
        f"{result['val_bpb']:.4f}",
        f"{result['total_bytes']:,} of 16,000,000 bytes, within the budget",
        "tokenizer 254,134",
        "8 x NVIDIA H100 80GB HBM3",
        "seed 1337",
        result["git_commit"],
        "torch 2.13.0",
        "--model.optimizer.init_args.matrix.lr=0.02",
        "blocks.8.mlp.down_proj.weight",
    ):
        assert shown in text, shown
    drawn = sorted(path.stem for path in (folder / "report").glob("*.png"))
    assert drawn == sorted(set(NAMES) - {"comparison", "scores"})
    assert page.count["svg"] == len(drawn) and "script" not in page.count
    for path in (folder / "report").glob("*.png"):
        assert matplotlib.image.imread(path)[..., :3].std() > 0.02


def test_a_report_is_the_same_each_time(tmp_path):
    folder = write_run(tmp_path, every=500)
    first = write_report([str(folder)]).page.read_bytes()
    assert write_report([str(folder)]).page.read_bytes() == first


def test_several_runs_are_compared_on_the_console_too(tmp_path, capsys):
    words = write_groups(tmp_path, {"base": 2.02, "wide": 2.008})
    assert main(["report", *words, "--out", str(tmp_path / "there" / "both.html")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == [
        "group",
        "seeds",
        "loss",
        "sd",
        "bpb",
        "sd",
        "improvement",
        "p",
        "better",
        "p",
        "0.005",
        "better",
        "bar",
    ]
    assert lines[1].startswith("base") and lines[1].endswith("reference")
    assert lines[2].startswith("wide") and lines[2].endswith("pass") and "+0.0120" in lines[2]
    page = outline(tmp_path / "there" / "both.html")
    text = " ".join(page.texts)
    assert "base vs wide" in text and "6 runs in 2 groups" in text
    assert all(word in text for word in words) and "model.optimizer.init_args.matrix.lr" in text
    assert (tmp_path / "there" / "both" / "comparison.png").is_file()


def test_by_default_several_runs_go_to_the_working_folder(tmp_path, monkeypatch):
    words = write_groups(tmp_path, {"a": 2.0}, seeds=(1, 2))
    monkeypatch.chdir(tmp_path)
    assert main(["report", *words]) == 0
    assert (tmp_path / "report.html").is_file()


def test_pictures_of_an_earlier_report_do_not_stay_and_other_files_do(tmp_path):
    words = write_groups(tmp_path, {"a": 2.0}, seeds=(1, 2))
    out = tmp_path / "all.html"
    write_report(words, out)
    (tmp_path / "all" / "mine.png").write_bytes(b"mine")
    assert (tmp_path / "all" / "comparison.png").exists()
    write_report(words[:1], out)
    assert not (tmp_path / "all" / "comparison.png").exists()
    assert (tmp_path / "all" / "mine.png").read_bytes() == b"mine"


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 30, "every": 10, "compressors_bpb": {"zlib": 1.98, "xz": 1.7}},
        {"steps": 10, "every": 10, "val_every": 5000},
        {"is_finished": False, "steps": 100},
        {"dim": 640},
        {"tensors": [], "step_ms_histogram": None, "step_ms_quantiles": {}, "metrics": []},
        {"splits": (2000, 5000), "steps": 7000},
        {"run_name": "_$x^2$ <b>&amp;\u202e 東京"},
        {"val_raw_bytes": 151_080_000, "roundtrip_val_bpb_raw": 1.25},
    ],
    ids=",".join,
)
def test_any_run_becomes_a_page(tmp_path, options):
    folder = write_run(tmp_path / "run", **options)
    assert outline(write_report([str(folder)]).page).count["svg"] >= 4


def test_a_run_that_logged_nothing_becomes_a_page(tmp_path):
    folder = write_run(tmp_path, metrics=[])
    (folder / "logs/version_0/metrics.csv").unlink()
    assert "no curves" in " ".join(outline(write_report([str(folder)]).page).texts)


@pytest.mark.parametrize("cell", ["nan", "inf", "1e308", "-1e308", "0", "5e-324"])
@pytest.mark.parametrize("is_finished", [True, False])
def test_a_run_that_logged_only_this_becomes_a_page(tmp_path, cell, is_finished):
    folder = write_run(tmp_path, steps=400, is_finished=is_finished)
    path = folder / "logs/version_0/metrics.csv"
    heading, *lines = path.read_text().splitlines()
    at = heading.split(",").index("step")
    path.write_text(
        "\n".join(
            [heading]
            + [
                ",".join(each if not each or i == at else cell for i, each in enumerate(line.split(",")))
                for line in lines
            ]
        )
        + "\n"
    )
    outline(write_report([str(folder)]).page)


def test_names_that_no_font_has_are_drawn(tmp_path):
    odd = "\udcff\u202e\x1b[31m\n_"  # As of a folder whose name is no UTF-8.
    folders = [write_run(tmp_path / str(i), seed=i, lr=i, steps=400, run_name=odd) for i in (1, 2)]
    result = json.loads((folders[0] / "result.json").read_text())
    result["tensors"][0]["name"] = odd
    result["compressors_bpb"] = {odd: 2.0}
    (folders[0] / "result.json").write_text(json.dumps(result))
    for words in (folders[:1], folders):
        page = outline(write_report([str(word) for word in words], tmp_path / "x.html").page)
        assert not set("\x1b\u202e\udcff") & set("".join(page.texts))


def test_texts_are_texts(tmp_path):
    folder = write_run(
        tmp_path, run_name="<script>alert(1)</script>", hardware='"><img src=x onerror=alert(1)>'
    )
    analysis = json.loads((folder / "analysis.json").read_text())
    tokens = [
        ["</span><script>", 1.0],
        ['" onmouseover="x', 20.0],
        ["\ud800\x1b[31m\u202e", 0.0],
        ["", 3.0],
        ["\r\n", 0.1],
    ]
    analysis["documents"][0]["tokens"] = tokens
    (folder / "analysis.json").write_text(json.dumps(analysis))
    page = outline(write_report([str(folder)]).page)
    assert "script" not in page.count and "img" not in page.count
    assert "</span><script>" in page.texts and '" onmouseover="x' in page.texts
    assert not set("\x1b\u202e\r") & set("".join(page.texts))


def test_colours_follow_nats():
    classes = [heat_class(nats) for nats in (0.0, 0.1, *HEAT_STEPS, 50.0)]
    assert classes[0] == classes[1] == "n0" and classes[-1] == classes[-2] == f"n{len(HEAT_STEPS)}"
    assert classes == sorted(classes)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["none"], "none: no such folder"),
        (["x" * 300], ": no such folder"),
        (["{run}", "--out", "x.pdf"], "out must end in .html, got x.pdf"),
        (["{run}", "--out", "{run}/config.yaml/x.html"], "cannot be written"),
        (["{run}", "--outt", "x.html"], "(did you mean --out?)"),
        (["--out", "x.html"], "runs"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(tmp_path, capsys, monkeypatch, words, said):
    folder = write_run(tmp_path / "run", every=500)
    monkeypatch.chdir(tmp_path)
    assert main(["report", *(word.format(run=folder) for word in words)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and said in error


def test_without_matplotlib_it_says_what_to_install(tmp_path, capsys, monkeypatch):
    folder = write_run(tmp_path / "run", every=500)
    original = builtins.__import__

    def without(name, *rest, **more):
        if name.partition(".")[0] == "matplotlib":
            raise ImportError(name)
        return original(name, *rest, **more)

    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    assert main(["report", str(folder)]) == 2
    assert "pip install matplotlib" in capsys.readouterr().err
    assert not (folder / "report.html").exists()


def test_help_tells_how_runs_are_grouped(capsys):
    with pytest.raises(SystemExit):
        main(["report", "--help"])
    assert "NAME=FOLDER,FOLDER" in capsys.readouterr().out


@pytest.mark.slow
def test_a_long_run_takes_seconds(tmp_path):
    folder = write_run(tmp_path, steps=20_000, every=50)
    write_report([str(folder)])  # Imports and fonts.
    start = time.process_time()
    write_report([str(folder)])
    assert time.process_time() - start < 15  # The whole command takes 2.9 s of CPU time, imports and all.


def test_many_groups_leave_room_for_their_curves(tmp_path):
    folders = [write_run(tmp_path / f"r{i}x", seed=i, lr=i + 1, steps=400, num_layers=2) for i in range(25)]
    text = write_report([str(folder) for folder in folders], tmp_path / "x.html").page.read_text()
    assert "and 15 more" in text and text.count(">r24x<") >= 2


def test_columns_are_aligned():
    assert aligned([["a", "1", "x"], ["bcd", "22", "longer"]]) == ["a     1  x", "bcd  22  longer"]
    assert aligned([["a\nb", "1", "x"]]) == ["a b  1  x"]
