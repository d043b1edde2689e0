"""``plgolf report``: the files it writes, their content, and its lines on the console."""

import builtins
import json
import re
import sys
import time
from html.parser import HTMLParser

import matplotlib.image
import numpy as np
import pytest
from report.folders import write_groups, write_run

from plgolf.cli import main
from plgolf.report.cli import aligned
from plgolf.report.page import HEAT_EDGES, heat_class, page_of
from plgolf.report.pictures import NAMES
from plgolf.report.runs import read_run
from plgolf.report.writing import write_report


class Outline(HTMLParser):
    """Elements of a page, the open ones, addresses that would be fetched, texts, and labels of figures."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.count, self.fetched, self.texts, self.figures = [], {}, [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.count[tag] = self.count.get(tag, 0) + 1
        given = dict(attributes)
        for name in ("src", "href", "xlink:href", "data", "srcset", "action"):
            if name in given and not given[name].startswith(("#", "data:")):
                self.fetched.append(given[name])
        if tag == "svg":
            self.figures.append(given["aria-label"])
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
    assert sorted(page.figures) == sorted(TITLES[name] for name in drawn) and "script" not in page.count
    for path in (folder / "report").glob("*.png"):
        assert matplotlib.image.imread(path)[..., :3].std() > 0.02


@pytest.mark.slow
def test_a_report_is_the_same_each_time(tmp_path):
    folder = write_run(tmp_path, every=500)
    first = write_report([str(folder)]).page.read_bytes()
    assert write_report([str(folder)]).page.read_bytes() == first


def test_several_runs_are_compared_on_the_page_and_on_the_console(tmp_path, capsys):
    words = write_groups(tmp_path, {"base": 2.02, "wide": 2.008})
    assert main(["report", *words, "--out", str(tmp_path / "there" / "both.html")]) == 0
    lines = capsys.readouterr().out.splitlines()
    heading = "group seeds loss sd bpb sd improvement p better p 0.005 better bar"
    assert lines[0].split() == heading.split()
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


def test_pictures_of_an_earlier_report_are_removed_and_other_files_stay(tmp_path):
    words = write_groups(tmp_path, {"a": 2.0}, seeds=(1, 2))
    out = tmp_path / "all.html"
    write_report(words, out)
    (tmp_path / "all" / "mine.png").write_bytes(b"mine")
    assert (tmp_path / "all" / "comparison.png").exists()
    write_report(words[:1], out)
    assert not (tmp_path / "all" / "comparison.png").exists()
    assert (tmp_path / "all" / "mine.png").read_bytes() == b"mine"


TITLES = {
    "ledger": "Bytes by part",
    "loss_steps": "Loss against steps",
    "loss_seconds": "Loss against training time",
    "bpb_steps": "Validation bits per byte against steps",
    "bpb_seconds": "Validation bits per byte against training time",
    "scores": "Bits per byte, beside general compressors",
    "lr_factor": "Learning-rate factor",
    "momentum": "Muon's momentum",
    "gradient_norm": "Gradient norm",
    "step_times": "Time of a step",
    "positions": "Bits per byte by position in the sequence",
    "quantisation": "Error of quantisation by tensor",
}
LOGGED = {"loss_steps", "loss_seconds", "lr_factor", "momentum", "gradient_norm"}
FINISHED = LOGGED | {"ledger", "step_times", "positions", "quantisation"}
BPB = {"bpb_steps", "bpb_seconds"}


@pytest.mark.parametrize(
    ("options", "drawn", "shown"),
    [
        (
            {"steps": 30, "every": 10, "compressors_bpb": {"zlib": 1.98, "xz": 1.7}},
            FINISHED | {"scores"},
            ["zlib -9", " 1.9800", "s of training"],
        ),
        ({"steps": 10, "every": 10, "val_every": 5000}, FINISHED, ["attention.q_proj"]),
        (
            {"is_finished": False, "steps": 100},
            LOGGED | {"step_times"},
            ["steps so far", "Means of the steps between two rows of the log, not single steps."],
        ),
        ({"dim": 640}, FINISHED | BPB, ["OVER the budget of 16,000,000", "bytes, OVER the budget:"]),
        (
            {"tensors": [], "step_ms_histogram": None, "step_ms_quantiles": {}, "metrics": []},
            (FINISHED | BPB) - {"quantisation"},
            ["model", "Means of the steps between two rows of the log, not single steps."],
        ),
        ({"splits": (2000, 5000), "steps": 7000}, FINISHED | BPB, ["7,000"]),
        (
            {"val_raw_bytes": 151_080_000, "roundtrip_val_bpb_raw": 1.25},
            FINISHED | BPB,
            ["1.2500", "bits per raw byte, of the file on disk"],
        ),
        ({"roundtrip_val_bpb": None, "roundtrip_val_loss": None, "seed": False}, FINISHED | BPB, ["nan"]),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_a_page_has_the_figures_that_the_files_allow_with_their_data(tmp_path, options, drawn, shown):
    folder = write_run(tmp_path / "run", **options)
    written = write_report([str(folder)])
    page = outline(written.page)
    assert {picture.stem for picture in written.pictures} == drawn
    assert sorted(page.figures) == sorted(TITLES[name] for name in drawn)
    texts = " ".join(page.texts)
    for text in shown:
        assert text in texts, text


def test_a_figure_shows_the_logged_values(tmp_path):
    """Vertical places of the points of the bits per byte in the SVG are linear in the logged values."""
    folder = write_run(tmp_path, steps=5000, num_layers=1)
    page = write_report([str(folder)]).page.read_text()
    svg = page[page.index(f'aria-label="{TITLES["bpb_steps"]}"') :]
    path = re.search(r'<path d="([^"]+)" clip-path[^>]+stroke: #4477aa; stroke-width: 1.6', svg)[1]
    points = np.array([[float(x) for x in pair] for pair in re.findall(r"([\d.]+) ([\d.]+)", path)])
    values = read_run(folder).curves["val/bpb"]
    assert points.shape == (len(values), 2) == (5, 2)
    assert np.corrcoef(points[:, 0], values.steps)[0, 1] == pytest.approx(1, abs=1e-6)
    assert np.corrcoef(points[:, 1], values.values)[0, 1] == pytest.approx(-1, abs=1e-6)


def test_a_run_without_a_log_has_no_curves_and_a_note(tmp_path):
    folder = write_run(tmp_path, metrics=[])
    (folder / "logs/version_0/metrics.csv").unlink()
    page = outline(write_report([str(folder)]).page)
    assert "no curves" in " ".join(page.texts)
    assert sorted(page.figures) == sorted(TITLES[name] for name in FINISHED - LOGGED)


@pytest.mark.parametrize(
    ("cell", "is_finished"),
    [("nan", True), *((cell, False) for cell in ("nan", "inf", "1e308", "-1e308", "0", "5e-324"))],
)
def test_extreme_logged_values_become_a_page(tmp_path, cell, is_finished):
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
    page = outline(write_report([str(folder)]).page)
    assert {TITLES["loss_steps"], TITLES["gradient_norm"]} <= set(page.figures)
    assert ("Bytes by part" in page.figures) == is_finished


@pytest.mark.slow
def test_odd_names_are_drawn_without_control_characters(tmp_path):
    odd = "\udcff\u202e\x1b[31m\n_$x^2$ <b>&amp; 東京"  # A folder's name need not be UTF-8.
    folders = [
        write_run(tmp_path / f"{i}", seed=i, lr=i, steps=400).rename(tmp_path / f"{i}{odd}") for i in (1, 2)
    ]
    result = json.loads((folders[0] / "result.json").read_text())
    result["tensors"][0]["name"] = odd
    result["compressors_bpb"] = {odd: 2.0}
    (folders[0] / "result.json").write_text(json.dumps(result))
    for words in (folders[:1], folders):
        page = outline(write_report([str(word) for word in words], tmp_path / "x.html").page)
        texts = "".join(page.texts)
        assert not set("\x1b\u202e\udcff") & set(texts)
        assert "$x^2$ <b>&amp; 東京" in texts


@pytest.mark.parametrize(
    "averages", [None, {"ema": 0.9, "tail": None, "tail_steps": 0, "raw_val_bpb": 1.23456}]
)
def test_a_run_with_averages_shows_what_they_gain(averages, tmp_path):
    run = read_run(write_run(tmp_path, steps=30, every=10, averages=averages))
    text = page_of(run, [])
    assert ("1.2346" in text and "of the weights that are not averaged" in text) is (averages is not None)


def test_no_text_of_a_run_becomes_markup(tmp_path):
    folder = write_run(tmp_path / "<script>alert(1)", hardware='"><img src=x onerror=alert(1)>')
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
    assert page.texts.count("<script>alert(1)") == 2 and "<img src=x onerror=alert(1)>" in "".join(page.texts)
    assert not set("\x1b\u202e\r") & set("".join(page.texts))


def test_colours_follow_nats():
    classes = [heat_class(nats) for nats in (*HEAT_EDGES, 50.0)]
    assert classes == [*(f"n{i}" for i in range(10)), "n9"]
    assert heat_class(0.1) == "n0" and heat_class(None) == "n9"


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


def test_without_matplotlib_the_error_names_it(tmp_path, capsys, monkeypatch):
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


def test_help_explains_groups(capsys):
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


@pytest.mark.slow
def test_many_groups_leave_room_for_their_curves(tmp_path):
    folders = [write_run(tmp_path / f"r{i}x", seed=i, lr=i + 1, steps=400, num_layers=2) for i in range(25)]
    text = write_report([str(folder) for folder in folders], tmp_path / "x.html").page.read_text()
    assert "and 15 more" in text and text.count(">r24x<") >= 2


def test_columns_are_aligned():
    assert aligned([["a", "1", "x"], ["bcd", "22", "longer"]]) == ["a     1  x", "bcd  22  longer"]
    assert aligned([["a\nb", "1", "x"]]) == ["a b  1  x"]
