"""Reports in a browser: no requests, no errors, no overflow, on a screen and on a phone."""

import os

import matplotlib.image
import numpy as np
import pytest
from report.browser import browser, find_browser
from report.folders import write_groups, write_run

from plgolf.report.writing import write_report

# Continuous integration installs Chromium: a skip there would go unnoticed.
missing = find_browser() is None and not os.environ.get("CI")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(missing, reason="no Chromium: apt-get install chromium"),
]

DECODED = """
Promise.all([...document.images].map(image => image.decode().then(() => image.naturalWidth > 0, () => false)))
"""
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
BOXES = "[...document.querySelectorAll('figure svg')].map(svg => svg.getBoundingClientRect().height)"


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    groups = write_groups(root / "groups", {"base": 2.02, "wide": 2.008})
    return {
        "one": write_report([str(write_run(root / "one", tokenizer_bytes=254_134))]).page,
        "several": write_report(groups, root / "several.html").page,
        "unfinished": write_report([str(write_run(root / "unfinished", is_finished=False, steps=400))]).page,
    }


@pytest.mark.parametrize("name", ["one", "several", "unfinished"])
@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (1280, "dark"), (400, "light")])
def test_a_report_opens_without_requests_errors_or_overflow(tab, pages, tmp_path, name, width, theme):
    tab.requests.clear()
    tab.complaints.clear()
    tab.open(pages[name], width=width, theme=theme)

    assert tab.evaluate(OVERFLOW) <= 0
    assert all(tab.evaluate(DECODED))
    heights = tab.evaluate(BOXES)
    assert len(heights) >= 6 and min(heights) > 60
    assert [url for url in tab.requests if not url.startswith("data:")] == [pages[name].resolve().as_uri()]
    assert tab.complaints == []

    tab.screenshot(tmp_path / "page.png")
    pixels = matplotlib.image.imread(tmp_path / "page.png")[..., :3]
    assert pixels.shape[1] == width and pixels.std() > 0.05
    background = np.median(pixels.reshape(-1, 3), axis=0).mean()
    assert background > 0.9 if theme == "light" else background < 0.2


def test_tokens_are_coloured_text_with_their_nats_and_never_code(tab, pages):
    tab.open(pages["one"])
    texts = tab.evaluate("[...document.querySelectorAll('.text-of')].map(e => e.textContent)")
    assert len(texts) == 4 and "<script>alert('no')</script>" in texts[0].replace("\n", "")
    assert tab.evaluate("document.scripts.length") == 0
    titles = tab.evaluate("[...document.querySelectorAll('.text-of span')].map(e => e.title)")
    assert len(titles) > 400 and all(title.endswith(" nats") for title in titles)
    colours = tab.evaluate(
        "[...document.querySelectorAll('.text-of span')].map(e => [parseFloat(e.title), "
        "parseFloat(getComputedStyle(e).backgroundColor.split(',')[3] || '1')])"
    )
    by_nats = [alpha for _, alpha in sorted(colours)]
    assert by_nats[0] < 0.1 and by_nats[-1] > 0.7
    assert by_nats == sorted(by_nats)


def test_a_tensor_of_the_treemap_has_a_tip(tab, pages):
    tab.open(pages["one"])
    tips = tab.evaluate("[...document.querySelectorAll('figure.wide svg title')].map(e => e.textContent)")
    assert sum("blocks.3.mlp.up_proj.weight" in tip for tip in tips) == 1
    assert any(tip.startswith("tokenizer: 254,134 bytes") for tip in tips)


def test_identifiers_are_unique(tab, pages):
    for page in pages.values():
        tab.open(page)
        assert tab.evaluate(
            "(ids => ids.length === new Set(ids).size)([...document.querySelectorAll('[id]')].map(e => e.id))"
        )


def test_requests_errors_and_overflow_are_detected(tab, tmp_path):
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<img src='http://example.invalid/a.png'><img src='data:image/png;base64,AAAA'>"
        "<div style='width: 5000px'>wide</div><script>console.error('no'); nothing();</script>"
    )
    tab.requests.clear()
    tab.complaints.clear()
    tab.open(bad, width=400)
    assert "http://example.invalid/a.png" in tab.requests
    assert len(tab.complaints) >= 2
    assert tab.evaluate(DECODED) == [False, False]
    assert tab.evaluate(OVERFLOW) > 1000
