"""The HTML report: everything in it, nothing from outside, and readable in a real browser."""

import dataclasses
import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from compare import Report
from compare.profile import picture
from compare.report.charts import _LogAxis, heatmap
from compare.result import Cause, CheckResult, Divergence, LayerError, Leaf, UsageError

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)
HOSTILE = '<script>alert("x")</script>&'


def failed_report() -> Report:
    random = np.random.default_rng(0)
    reference = random.standard_normal((60, 100))
    found = reference.copy()
    found[41, 7] += 0.25
    return Report(
        name=f"Net {HOSTILE}",
        checks=(
            CheckResult("weights", "passed", "4 arrays mapped", ()),
            CheckResult(
                "outputs",
                "failed",
                "1 of 2 outputs differ by more than rounding explains",
                (Leaf("logits", 0.25, 1e-13, 3.0, (41, 7)), Leaf("hidden", math.nan, 1e-13, 3.0, detail="expected")),
            ),
        ),
        first_divergence=Divergence("forward", "inside", "norm", "blocks.norm", 0.25, 1e-13),
        causes=(Cause("norm_epsilon", "in norm: epsilon 1e-6, torch has 1e-5", "pass epsilon=1e-5", "seen"),),
        numbers={"parameters": {"torch": 4647, "flax": 4647, "numpy": None, "formula": None}},
        settings={"mode": "eval"},
        layers=(
            LayerError("fc1", "fc1", "output", 0.0, 1e-14, 1e-3, 1e-13),
            LayerError("norm", "blocks.norm", "output", 0.25, 1e-13, math.inf, 1e-13),
        ),
        worst_array=picture("logits", "given weights", reference, found, 1e-13),
        gradient_norms={"fc1.weight": (2.0, 2.5), "fc1.bias": (0.0, 0.0)},
    )


class Outline(HTMLParser):
    """Collects the tags, and checks that they close in order."""

    void = frozenset({"meta", "rect"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.void:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def outline(page: str) -> Outline:
    parser = Outline()
    parser.feed(page)
    assert parser.open == []
    return parser


def test_the_page_is_whole_and_says_the_verdict_first() -> None:
    page = outline(failed_report().to_html())
    text = " ".join(page.words[1:])  # the first is the title
    order = [text.index(part) for part in ("Failed: the port differs", "pass epsilon=1e-5", "1 of 2 outputs")]
    assert order == sorted(order)
    assert "4,647" in text
    assert sum(tag == "details" and "open" in attributes for tag, attributes in page.seen) == 1  # the failed check


def test_names_are_escaped_and_nothing_is_fetched() -> None:
    page = failed_report().to_html()
    assert "<script" not in page
    tags = outline(page).seen
    assert not [tag for tag, _ in tags if tag in ("script", "link", "img", "iframe")]
    outside = [a for _, attributes in tags for key, a in attributes.items() if key in ("src", "href") and a]
    assert all(reference.startswith("#") for reference in outside)
    assert "url(" not in page
    assert "default-src 'none'" in page


def test_only_what_differs_is_marked() -> None:
    page = outline(failed_report().to_html())
    marked = {a["id"] for tag, a in page.seen if tag == "li" and a.get("class") == "bad"}
    assert marked == {"forward-1", "backward-0", "backward-1"}


def test_a_passed_report_accuses_nobody() -> None:
    report = Report("Net", (CheckResult("outputs", "passed", "2 outputs agree", (Leaf("", 1e-16, 1e-14, 1.0, (0,)),)),))
    page = report.to_html()
    assert "Passed: both compute the same function" in page
    assert 'class="failed"' not in page
    assert "First difference" not in page


def test_the_axis_is_logarithmic_and_takes_anything() -> None:
    axis = _LogAxis([1e-14, 1e-4])
    assert (axis.low, axis.high) == (-15, -4)
    assert axis.percent(0.0) == 0.0
    assert axis.percent(math.nan) == axis.percent(math.inf) == 100.0
    assert axis.percent(10**-9.5) == 50.0
    assert _LogAxis([]).percent(1.0) == 100.0


def test_a_picture_keeps_the_largest_difference_of_every_cell() -> None:
    reference = np.zeros((2, 50, 130))
    found = reference.copy()
    found[1, 49, 129], found[0, 0, 0] = -3.0, 1.0
    drawn = picture("x", "case", reference, found, 1e-12)
    assert (len(drawn.cells), len(drawn.cells[0])) == (48, 48)
    assert (drawn.index, drawn.cell, drawn.expected, drawn.found) == ((1, 49, 129), (47, 47), 0.0, -3.0)
    assert drawn.cells[0][0] == 1.0
    assert sum(cell > 0 for row in drawn.cells for cell in row) == 2
    assert heatmap(drawn).count("fill-opacity") == 2  # cells that agree stay empty


@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5), (2, 3, 4)])
def test_a_picture_of_any_shape(shape: tuple[int, ...]) -> None:
    drawn = picture("x", "case", np.zeros(shape), np.full(shape, 0.5), 0.0)
    assert (drawn.expected, drawn.found) == (0.0, 0.5)
    assert all(cell == 0.5 for row in drawn.cells for cell in row)


def test_saved_by_suffix(tmp_path: Path) -> None:
    report = failed_report()
    for suffix in ("html", "json", "txt"):
        report.save(tmp_path / f"report.{suffix}")
    assert (tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["layers"][1]["gradient_error"] == "inf"
    with pytest.raises(UsageError, match=r"expected a file name that ends in .txt, .json, .html, found '.pdf'"):
        report.save(tmp_path / "report.pdf")
    with pytest.raises(UsageError, match="can't be written"):
        report.save(tmp_path / "missing" / "report.html")


def browse(page: Path, *options: str) -> str:
    """What headless Chromium prints; its profile stays in the page's folder."""
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={page.parent / 'profile'}"]
    done = subprocess.run([*command, *options, page.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")
def test_a_click_opens_a_check_and_nothing_overflows_on_a_phone(tmp_path: Path) -> None:
    report = failed_report()
    report = dataclasses.replace(report, layers=report.layers * 20)
    # The page itself runs no script; the test's own does what a finger would, and notes what it then sees.
    script = """<script>
      const first = document.querySelector('details');
      const before = first.open;
      first.querySelector('summary').click();
      const row = document.querySelector('#forward-1');
      document.body.dataset.seen = [before, first.open, row.getBoundingClientRect().height > 10,
        document.documentElement.scrollWidth <= window.innerWidth].join(' ');
    </script></body>"""
    page = tmp_path / "page.html"
    policy = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
    page.write_text(policy.sub("", report.to_html()).replace("</body>", script), encoding="utf-8")
    seen = browse(page, "--window-size=500,900", "--dump-dom")
    assert 'data-seen="false true true true"' in seen


@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")
def test_a_screenshot_shows_more_than_an_empty_page(tmp_path: Path) -> None:
    page, shot = tmp_path / "page.html", tmp_path / "shot.png"
    failed_report().save(page)
    browse(page, "--window-size=400,800", f"--screenshot={shot}")
    pixels = imread(shot)
    assert pixels.shape[:2] == (800, 400)
    assert len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)) > 20  # an empty page has one colour
