"""Treemaps: areas, overlaps and the frame, for any sizes; the parts of a submission add up to its bytes."""

import matplotlib.image
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report.folders import write_run

from plgolf.report.ledger import parts_of
from plgolf.report.pictures import ledger_treemap
from plgolf.report.records import Result, read_record
from plgolf.report.treemap import Rectangle, squarify

sizes = st.lists(st.floats(1, 1e6), min_size=1, max_size=60)
frames = st.builds(Rectangle, st.floats(-9, 9), st.floats(-9, 9), st.floats(0.1, 50), st.floats(0.1, 50))


@given(sizes, frames)
def test_areas_are_proportional_and_inside_the_frame_without_overlaps(sizes, frame):
    found = squarify(sizes, frame)
    slack = 1e-6 * max(frame.width, frame.height)
    for size, cell in zip(sizes, found, strict=True):
        assert cell.area == pytest.approx(frame.area * size / sum(sizes), rel=1e-6)
        assert cell.x >= frame.x - slack and cell.x + cell.width <= frame.x + frame.width + slack
        assert cell.y >= frame.y - slack and cell.y + cell.height <= frame.y + frame.height + slack
    for i, a in enumerate(found):
        for b in found[:i]:
            across = min(a.x + a.width, b.x + b.width) - max(a.x, b.x)
            along = min(a.y + a.height, b.y + b.height) - max(a.y, b.y)
            assert across <= slack or along <= slack


@given(st.integers(1, 40))
def test_equal_sizes_are_nearly_square(count):
    for cell in squarify([1.0] * count, Rectangle(0, 0, 9.5, 3.2)):
        assert max(cell.width / cell.height, cell.height / cell.width) < 3.3


def test_squarify_matches_the_example_of_the_paper():
    found = squarify([6, 6, 4, 3, 2, 2, 1], Rectangle(0, 0, 6, 4))
    expected = [(0, 2, 3, 2), (0, 0, 3, 2), (3, 5 / 3, 12 / 7, 7 / 3), (33 / 7, 5 / 3, 9 / 7, 7 / 3)]
    for cell, box in zip(found, expected, strict=False):
        assert cell == pytest.approx(box)


def test_squarify_takes_no_sizes_and_an_empty_frame():
    assert squarify([], Rectangle(0, 0, 1, 1)) == []
    assert [cell.area for cell in squarify([1, 2], Rectangle(0, 0, 0, 1))] == [0, 0]


@pytest.mark.parametrize("tokenizer_bytes", [0, 254_134])
def test_parts_add_up_to_the_total(tmp_path, tokenizer_bytes):
    result = read_record(Result, write_run(tmp_path, tokenizer_bytes=tokenizer_bytes) / "result.json")
    parts = parts_of(result)
    assert sum(part.num_bytes for part in parts) == pytest.approx(result.total_bytes, rel=1e-12)
    assert sum(part.num_bytes for part in parts if part.kind == "code") == result.code_bytes
    assert sum(part.num_bytes for part in parts if part.kind == "tokenizer") == tokenizer_bytes
    assert {part.group for part in parts if part.kind == "matrix"} == {f"block {i}" for i in range(9)}


def test_a_run_without_tensors_has_one_part_for_the_model(tmp_path):
    result = read_record(Result, write_run(tmp_path, tensors=[]) / "result.json")
    assert [part.name for part in parts_of(result)] == ["model", "code"]


@pytest.mark.parametrize("changes", [{}, {"dim": 640}, {"tensors": []}, {"dim": 128, "num_layers": 4}])
def test_the_bar_of_the_picture_for_loggers_is_to_scale(tmp_path, changes):
    import io
    import json

    result = json.loads((write_run(tmp_path, **changes) / "result.json").read_text())
    picture = matplotlib.image.imread(io.BytesIO(ledger_treemap(result)))[..., :3]
    assert picture.shape[0] > 700 and picture.shape[1] > 1500
    # The row of pixels through the middle of the budget's bar: blue as far as the model goes.
    blue = np.array([0x44, 0x77, 0xAA]) / 255
    is_blue = np.abs(picture - blue).max(axis=2) < 0.02
    rows = is_blue.sum(axis=1)
    bar = is_blue[np.flatnonzero(rows > 20)[10]]
    share = result["artifact_bytes"] / max(result["budget_bytes"], result["total_bytes"])
    assert bar.sum() / picture.shape[1] == pytest.approx(share * 0.985, abs=0.02)
