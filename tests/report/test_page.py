"""report.html shows any two scores against each other, with the settings and samples of every point."""

import re
import time
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from rdt.prompts import write_rows
from rdt.report.compare import compare
from rdt.report.curves import read_curves
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
    assert base["grid"] == "grid0" and base["scores"]["passes"] == base["diffs"]["hps"] == [0, 0, 0]
    mean = next(p for p in others if p["kind"] == "mean" and p["method"] == "draft")
    assert [mean["scores"][name][0] for name in ("passes", "TFLOP", "seconds")] == [27000, 1.2, 15]
    paired = next(g for g in comparison.groups if g.method == "draft").scores["reward/gold"].diff
    assert mean["diffs"]["gold"] == [paired.mean, paired.lo, paired.hi] and mean["diffs"]["TFLOP"][0] == 1.2
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


@pytest.fixture
def plots(tmp_path, browser):
    """Open the page of two methods in the browser and return the browser."""
    browser.show_as(1280, 860)
    browser.open(report([two_methods(tmp_path / "runs")], tmp_path / "out"))
    browser.until("document.querySelector('[data-tip]')")
    return browser


def index_of(browser, config):
    """Return the number of the point of a setting."""
    return browser.js("JSON.parse(document.querySelector('[data-chart]').textContent).points"
                      f".findIndex(p => (p.config || '').endsWith('{config}'))")  # fmt: skip


def shape(config, browser, plot=".free"):
    return f"document.querySelector('{plot} [data-tip=\"{index_of(browser, config)}\"] .hit')"


@browsed
def test_the_first_figure_holds_paired_differences_with_named_quadrants(plots):
    titles = plots.js("[...document.querySelectorAll('.planes figcaption')].map(e => e.textContent)")
    assert titles == ["hps against entropy", "gold against entropy", "gold against hps"]
    corners = plots.js("[...document.querySelectorAll('.planes .quadrant')].map(e => e.textContent)")
    assert {"better in both", "hps bought with diversity", "hacked: hps up, gold down"} <= set(corners)
    words = "document.querySelector('.planes [data-tip=\"0\"]').getAttribute('aria-label')"
    assert plots.js(words) == "base: Δ entropy 0, Δ hps 0"
    plots.click("document.querySelector('[data-view=absolute]')")
    assert "hps 0.2" in plots.js(words) and not plots.js("document.querySelector('.planes .quadrant')?.textContent")


@browsed
def test_axes_legend_and_address_of_the_free_plot(plots):
    lines = (
        "[...document.querySelectorAll('.free [data-front] polyline')]"
        ".map(e => e.getAttribute('points').split(' ').length)"
    )
    assert plots.js(lines) == [2, 2]  # base and draft; base and the sqdf that is not dominated
    for place, name in enumerate(("TFLOP", "hps")):
        plots.js(f"(s => (s.value = '{name}', s.dispatchEvent(new Event('change'))))"
                 f"(document.querySelectorAll('select')[{place}])")  # fmt: skip
    assert "TFLOP →" in plots.js("document.querySelector('.free').textContent")
    assert plots.js("location.hash") == "#chart0=TFLOP,hps,difference"
    plots.click("document.querySelector('.keys button[data-method=sqdf]')")
    assert plots.js("document.querySelectorAll('.free [data-tip]').length") == 1 + 3 and plots.js(lines) == [2]
    pressed = "[...document.querySelectorAll('.keys button')].map(e => e.getAttribute('aria-pressed'))"
    assert plots.js(pressed) == ["true", "false"] * 2
    plots.js("location.reload()")
    plots.until("document.querySelector('.free')?.textContent.includes('TFLOP →')")


@browsed
def test_hovering_tells_what_a_point_is(plots):
    plots.hover(shape("kl_coef=1", plots))
    plots.until("document.querySelector('.tip').checkVisibility()")
    words = plots.js("document.querySelector('.tip').innerText")
    assert "method.kl_coef=1" in words and "Δ" in words and "one seed: on these prompts" in words
    box = plots.js("document.querySelector('.tip').getBoundingClientRect().toJSON()")
    assert min(box["left"], box["top"]) >= 0 and box["right"] <= 1280 and box["bottom"] <= 860


@browsed
@pytest.mark.parametrize("way", ["mouse", "touch", "keyboard"])
def test_a_point_is_pinned_with_its_command_and_images(plots, way):
    if way == "touch":
        plots.show_as(390, 844, phone=True)
        plots.js("new Promise(done => setTimeout(done, 300))")
        plots.tap(shape("kl_coef=1", plots))
    elif way == "mouse":
        plots.click(shape("kl_coef=1", plots))
    else:
        plots.js("document.querySelector('.free [data-tip][tabindex=\"0\"]').focus()")
        wanted = f"document.activeElement.dataset.tip === '{index_of(plots, 'kl_coef=1')}'"
        for _ in range(9):
            if not plots.js(wanted):
                plots.press("ArrowRight")
        plots.press("Enter")
    plots.until("document.querySelector('.pins section pre')")
    words = plots.js("document.querySelector('.pins').innerText")
    assert "python -m rdt.run" in words and "method.kl_coef=1" in words and "Copy command" in words
    under = "[...document.querySelectorAll('.grids figure')].filter(f => f.textContent.includes('kl_coef 1'))"
    assert plots.js(f"{under}[0].querySelector('img').src === [...document.querySelectorAll('.pins img')].at(-1).src")
    assert plots.js("document.querySelectorAll('.pins img').length") == 2  # the base's beside it
    plots.press("Escape")
    assert plots.js("document.querySelector('.pins').hidden")


@browsed
def test_a_second_point_is_pinned_beside_the_first_and_images_are_enlarged(plots):
    plots.click(shape("kl_coef=1", plots))
    plots.js(f"{shape('kl_coef=0.1', plots)}.dispatchEvent(new MouseEvent('click', {{bubbles: true, shiftKey: true}}))")
    assert plots.js("document.querySelectorAll('.pins pre').length") == 2
    plots.click("document.querySelector('.pins .enlarge')")
    plots.until("document.querySelector('dialog[open] img')")
    plots.press("Escape")
    plots.until("!document.querySelector('dialog')")
    assert plots.js("document.querySelectorAll('.pins pre').length") == 2


@browsed
def test_rows_are_filtered_by_words(plots):
    field, rows = "document.querySelector('[type=search]')", "document.querySelectorAll('[data-file=scores] tbody tr')"
    for words, shown in (("kl_coef", 3), ("kl_coef 0.1", 2), ("", 6)):
        plots.js(f"(f => (f.value = '{words}', f.dispatchEvent(new Event('input'))))({field})")
        assert plots.js(f"[...{rows}].filter(e => !e.hidden).length") == shown  # the base stays


@browsed
def test_tables_are_sorted_and_saved_with_chosen_columns(plots, tmp_path):
    (tmp_path / "saved").mkdir()
    plots.downloads(tmp_path / "saved")
    names = "[...document.querySelectorAll('[data-file=scores] tbody tr:not(.seed) th')].map(e => e.textContent)"
    assert plots.js(names)[0] == "base"
    plots.click("document.querySelectorAll('[data-file=scores] thead button')[1]")
    assert plots.js(names)[:2] == ["base", "draft, 2 seeds"]
    assert plots.js("document.querySelector('[aria-sort]').textContent") == "hps ↑"
    plots.js("document.querySelector('.tools [type=checkbox]').click()")
    for place, file in ((1, "scores.csv"), (2, "scores.tex")):
        plots.js(f"document.querySelectorAll('.tools button')[{place}].click()")
        plots.until("true")
        _wait(tmp_path / "saved" / file)
    head, *_ = (tmp_path / "saved" / "scores.csv").read_text().splitlines()
    assert '"gold ↑"' in head and "hps" not in head
    table = (tmp_path / "saved" / "scores.tex").read_text()
    assert r"gold $\uparrow$" in table and r"\mathbf{" in table and "hps" not in table
    plots.js("document.querySelector('.svg').click()")
    _wait(tmp_path / "saved" / "plane0.svg")
    assert "var(" not in (tmp_path / "saved" / "plane0.svg").read_text()


def _wait(file):
    for _ in range(600):
        if file.is_file() and file.stat().st_size:
            return
        time.sleep(0.02)
    raise AssertionError(f"{file.name} was not saved")


@browsed
def test_no_page_is_wider_than_a_phone_and_dark_pages_are_dark(plots):
    plots.show_as(390, 844, phone=True)
    plots.js("new Promise(done => setTimeout(done, 200))")
    assert plots.js("document.documentElement.scrollWidth") <= 390
    assert plots.js("parseFloat(getComputedStyle(document.querySelector('.plot text')).fontSize)") >= 11
    light = plots.js("getComputedStyle(document.body).backgroundColor")
    plots.show_as(1280, 860, dark=True)
    assert (light, plots.js("getComputedStyle(document.body).backgroundColor")) == (
        "rgb(255, 255, 255)", "rgb(20, 24, 30)",
    )  # fmt: skip
    plots.show_as(800, 1100, dark=True, media="print")
    assert plots.js("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not plots.js("document.querySelector('.tools').checkVisibility()")


@browsed
def test_pictures_regions_and_heads_have_names(plots):
    unnamed = (
        "[...document.querySelectorAll('svg[role], [role=region], [role=button], select, img')]"
        ".filter(e => !(e.getAttribute('aria-label') || e.alt || e.closest('label'))).length"
    )
    assert plots.js(unnamed) == 0
    assert plots.js("[...document.querySelectorAll('th')].every(e => e.scope)")
    levels = plots.js("[...document.querySelectorAll('h1,h2,h3')].map(e => Number(e.tagName[1]))")
    assert all(after - before <= 1 for before, after in pairwise(levels))


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
    assert browser.js("document.querySelectorAll('.free [data-tip]').length") == 101
