"""report.html shows any two scores against each other, with the settings and samples of every point."""

import re
import time

import numpy as np
import pytest
from PIL import Image

from rdt.prompts import write_rows
from rdt.report.compare import compare
from rdt.report.page import read_curves
from rdt.report.read import read_runs
from rdt.report.scatter import scatter_points
from rdt.report.write import report
from worlds.browser import Chromium, installed
from worlds.html_page import HtmlPage
from worlds.run_folders import write_run

COMPUTE = {"network_passes": 22000, "backward_passes": 5000, "tflop": 1.2, "seconds": 12.5, "device": "cpu"}
browsed = pytest.mark.skipif(installed() is None, reason="no Chromium here")


@pytest.fixture
def browser(tmp_path):
    (tmp_path / "browser").mkdir()
    browser = Chromium(tmp_path / "browser")
    yield browser
    browser.close()
    assert browser.complaints == [] and all(url.startswith(("file:", "data:")) for url in browser.requests)


def two_methods(folder):
    """Write runs of two settings of sqdf, the second dominated, and of draft over two seeds."""
    for kl, fall in ((0.1, -0.1), (1, -0.3)):
        shift = {"reward/hps": 0.03, "reward/gold": 0.03, "diversity/entropy": fall}
        write_run(folder / f"kl{kl}", "sqdf", 0, shift, [f"method.kl_coef={kl}"], compute=COMPUTE)
        Image.new("RGB", (64, 32), (0, round(100 * kl), 0)).save(folder / f"kl{kl}" / "samples" / "tuned.png")
    for seed in range(2):
        shift = {"reward/hps": 0.05, "reward/gold": 0.06, "diversity/entropy": -0.4}
        write_run(folder / f"d{seed}", "draft", seed, shift, compute=COMPUTE | {"seconds": 10.0 + 10 * seed})
    return folder


def test_points_of_the_scatter_have_their_cost_and_settings(tmp_path):
    (comparison,) = compare(read_runs([two_methods(tmp_path)])[0])
    base, *others = scatter_points(comparison, {"": "grid0"})
    assert base["grid"] == "grid0" and base["scores"]["passes"] == [0, 0, 0]
    mean = next(p for p in others if p["kind"] == "mean" and p["method"] == "draft")
    assert [mean["scores"][name][0] for name in ("passes", "TFLOP", "seconds")] == [27000, 1.2, 15]
    strong = next(p for p in others if "kl_coef 1" in p["name"])
    assert strong["config"] == "method.kl_coef=1" and strong["command"].endswith("seed=0 method.kl_coef=1")


def test_a_cost_that_was_not_recorded_is_no_axis(tmp_path):
    write_run(tmp_path / "0")
    (comparison,) = compare(read_runs([tmp_path])[0])
    assert all(
        {"passes", "TFLOP"}.isdisjoint(p["scores"]) and "seconds" in p["scores"] for p in scatter_points(comparison, {})
    )


def test_names_are_escaped_in_the_page(tmp_path):
    write_run(tmp_path / "run", method="<b>x</b>", label="</script><img src=x>")
    write_run(tmp_path / "twin", method="<b>x</b>", label="$x^$")
    write_rows(tmp_path / "run" / "samples", ["a $5 note on a $frac{table", "<i>x"])
    parsed = HtmlPage(report([tmp_path], tmp_path).read_text())
    assert parsed.open == [] and "x" not in parsed.addresses


def test_curves_leave_out_cells_that_are_not_finite(sweep):
    curves = read_curves(sweep / "0" / "metrics.csv")
    assert curves == {"train/reward": [(0, 0.2), (1, 0.3), (3, 0.4)], "eval/hps": [(1, 0.21), (2, 0.22)]}


def test_curves_end_where_the_file_is_damaged(sweep):
    path = sweep / "0" / "metrics.csv"
    whole = read_curves(path)
    path.write_text(path.read_text() + "x" * 200_000 + ",1\n")  # longer than a cell of a CSV file may be
    assert read_curves(path) == whole != {}
    assert report([sweep], sweep).is_file()


@browsed
def test_axes_hovering_and_legend_of_the_scatter(tmp_path, browser):
    page = report([two_methods(tmp_path / "runs")], tmp_path / "out")
    browser.open(page)
    lines = (
        "[...document.querySelectorAll('[data-front] polyline')].map(e => e.getAttribute('points').split(' ').length)"
    )
    assert browser.js(lines) == [2, 2]  # base and draft; base and the sqdf that is not dominated
    before = browser.js("document.querySelector('.plot').innerHTML")
    for place, name in enumerate(("TFLOP", "hps")):
        browser.js(f"(s => (s.value = '{name}', s.dispatchEvent(new Event('change'))))"
                   f"(document.querySelectorAll('.scatter select')[{place}])")  # fmt: skip
    assert browser.js("document.querySelector('.plot').innerHTML") != before
    assert "TFLOP →" in browser.js("document.querySelector('.plot').textContent")
    _hover(browser, "kl_coef=1")
    browser.click("document.querySelector('.keys button[data-method=sqdf]')")
    assert browser.js("document.querySelectorAll('[data-tip]').length") == 1 + 3 and browser.js(lines) == [2]


def _hover(browser, config):
    """Check that hovering over a point shows its command and the picture that the section Samples holds."""
    index = browser.js("JSON.parse(document.querySelector('.scatter script').textContent).points"
                       f".findIndex(p => (p.config || '').endsWith('{config}'))")  # fmt: skip
    assert not browser.js("document.querySelector('.tip').checkVisibility()")
    browser.hover(f"document.querySelector('[data-tip=\"{index}\"] circle')")
    browser.until(
        "document.querySelector('.tip').checkVisibility() && document.querySelector('.tip img').naturalWidth > 0"
    )
    words = browser.js("document.querySelector('.tip').innerText")
    assert f"method.{config}" in words and "python -m rdt.run" in words
    under = "[...document.querySelectorAll('.grids figure')].filter(f => f.textContent.includes('kl_coef 1'))"
    assert browser.js(f"{under}.map(f => f.querySelector('img').src === document.querySelector('.tip img').src)") == [
        True
    ]
    box = browser.js("document.querySelector('.tip').getBoundingClientRect().toJSON()")
    assert min(box["left"], box["top"]) >= 0 and box["right"] <= 1280 and box["bottom"] <= 860


def photo(rng, file, rows=4, columns=5, size=128):
    """Write a sample grid that compresses as photographs do: coarse shapes and a little grain."""
    coarse = Image.fromarray(rng.integers(0, 256, (rows * 8, columns * 8, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((columns * size, rows * size), Image.Resampling.BICUBIC), dtype=float)
    Image.fromarray((smooth + rng.normal(0, 6, smooth.shape)).clip(0, 255).astype(np.uint8)).save(file)


@pytest.mark.slow
@browsed
def test_a_hundred_runs_with_two_thousand_thumbnails_are_one_small_page(tmp_path, browser):
    rng = np.random.default_rng(0)
    for index in range(100):
        method, shift = ("sqdf", "draft")[index % 2], {"reward/hps": 0.001 * index, "diversity/entropy": -0.006 * index}
        write_run(tmp_path / f"{index}", method, 0, shift, [f"method.kl_coef={index}"], compute=COMPUTE)
        photo(rng, tmp_path / f"{index}" / "samples" / "tuned.png")
    start = time.perf_counter()
    page = report([tmp_path], tmp_path / "out")
    made, text = time.perf_counter() - start, page.read_text()
    start = time.perf_counter()
    browser.open(page)
    browser.js("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    opened = time.perf_counter() - start
    print(f"{page.stat().st_size / 1e6:.1f} MB, made in {made:.1f} s, open in {opened:.2f} s")
    assert len(re.findall("<img id=", text)) == 101 and page.stat().st_size < 30e6
    assert browser.js("document.querySelectorAll('[data-tip]').length") == 101
