"""A page shows the images behind its points: when one is pinned, in the gallery, along a knob, and by prompt."""

import json
import time

import pytest
from PIL import Image

from rdt.report import gallery
from rdt.report.by_prompt import by_prompt
from rdt.report.compare import compare
from rdt.report.gallery import pictured
from rdt.report.knobs import knobs_of
from rdt.report.read import read_runs
from rdt.report.write import report
from worlds.browser import Chromium, installed
from worlds.html_page import HtmlPage
from worlds.run_folders import PROMPTS, write_records, write_run

browsed = pytest.mark.skipif(installed() is None, reason="no Chromium here")
REDS = {0.1: 80, 0.3: 160, 1.0: 240}  # of the images of a KL coefficient


def knob_runs(folder):
    """Write runs of one method with three KL coefficients, each with the record of its images and the base's."""
    for kl, red in REDS.items():
        shift = {"reward/hps": 0.05 - 0.02 * kl, "diversity/entropy": -0.4 + 0.3 * kl}
        write_run(folder / f"kl{kl:g}", "sqdf", 0, shift, [f"method.kl_coef={kl:g}"])
        write_records(folder / f"kl{kl:g}", {"base": 20, "tuned": red})
    for iteration in (0, 2):
        Image.new("RGB", (8, 8), (100 * iteration, 0, 0)).save(folder / "kl1" / "samples" / f"{iteration:06d}.png")
    return folder


def comparison_of(folder):
    (found,) = compare(read_runs([folder])[0])
    return found


def test_records_are_paired_with_the_base_by_their_noise(tmp_path):
    shown = pictured(comparison_of(knob_runs(tmp_path)))
    assert [one.name for one in shown] == ["", "sqdf kl_coef 0.1", "sqdf kl_coef 0.3", "sqdf kl_coef 1"]
    record = gallery.gallery_record(shown, lambda path: path.parent.name)
    assert record["prompts"] == PROMPTS[:3] and record["columns"] == 2 and record["names"] == ["hps"]
    base, tuned = record["points"][""], record["points"]["sqdf kl_coef 1"]
    assert base[1][1] == ["base", [0.032]] and tuned[1][1] == ["tuned", [0.252]]


def test_images_of_another_noise_are_left_out(tmp_path):
    knob_runs(tmp_path)
    file = tmp_path / "kl1" / "samples" / "tuned" / "images.json"
    whole = json.loads(file.read_text())
    whole["images"] = [one | {"seed": 7} for one in whole["images"]]
    file.write_text(json.dumps(whole))
    assert [one.name for one in pictured(comparison_of(tmp_path))][1:] == ["sqdf kl_coef 0.1", "sqdf kl_coef 0.3"]


def test_what_is_no_image_is_left_out(tmp_path):
    knob_runs(tmp_path)
    for row in range(3):
        (tmp_path / "kl1" / "samples" / "tuned" / f"00{row}-00.png").write_text("<svg onload=alert(1)>")
    last = pictured(comparison_of(tmp_path))[-1]
    assert {image.column for image in last.images} == {1}


def test_a_knob_is_a_number_in_which_alone_settings_differ(tmp_path):
    (knob,) = knobs_of(comparison_of(knob_runs(tmp_path)))
    assert (knob.title, knob.values) == ("sqdf kl_coef", tuple(REDS))
    assert knob.groups == tuple(f"sqdf kl_coef {kl:g}" for kl in REDS)
    write_run(tmp_path / "other", "sqdf", 0, overrides=["method.kl_coef=3", "method.lr=1"])
    knobs = {knob.title: knob.values for knob in knobs_of(comparison_of(tmp_path))}
    assert knobs == {"sqdf kl_coef": tuple(REDS)}


def test_differences_by_prompt_are_paired_and_averaged_over_seeds(tmp_path):
    for seed in range(2):
        write_run(tmp_path / str(seed), seed=seed)
    comparison = comparison_of(tmp_path)
    found = by_prompt(comparison)["rows"]["sqdf"]["hps"]
    (group,) = comparison.groups
    pairs = [(p.per_prompt["reward/hps"], run.result.base.per_prompt["reward/hps"])
             for p, run in zip(group.points, group.runs, strict=True)]  # fmt: skip
    assert found == pytest.approx([sum(t[k] - b[k] for t, b in pairs) / 2 for k in range(12)], abs=1e-4)


def test_many_images_lie_beside_the_page(tmp_path, monkeypatch):
    runs = knob_runs(tmp_path / "runs")
    whole = report([runs], runs).read_text()
    assert "data:image/png" in whole and not (runs / gallery.COPIES).exists()
    monkeypatch.setattr(gallery, "EMBEDDED", 0)
    assert '"kl1/samples/tuned/002-01.png"' in report([runs], runs).read_text()
    page = report([runs], tmp_path / "out")
    copies = [path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*-*.png")]
    assert len(copies) == 4 * 6 and all(f'"{name}"' in page.read_text() for name in copies)


def test_the_name_of_a_folder_is_no_address(tmp_path):
    for name in ("javascript:alert(1)", "a#b", "100%?"):
        image = tmp_path / name / "000-00.png"
        image.parent.mkdir()
        image.touch()
        assert not set(":#?") & set(gallery.beside(image, tmp_path))


def test_prompts_of_a_record_are_escaped(tmp_path):
    knob_runs(tmp_path)
    for file in tmp_path.rglob("images.json"):
        file.write_text(file.read_text().replace(PROMPTS[0], "</script><img src=x onerror=alert(1)>"))
    parsed = HtmlPage(report([tmp_path], tmp_path).read_text())
    assert parsed.open == [] and "x" not in parsed.addresses


@pytest.fixture
def page(tmp_path):
    """Open the report over the three settings in a browser, and check that nothing leaves the page."""
    (tmp_path / "browser").mkdir()
    browser = Chromium(tmp_path / "browser")
    browser.show_as(1280, 900)
    browser.open(report([knob_runs(tmp_path / "runs")], tmp_path / "out"))
    browser.until("document.querySelector('[data-tip]')")
    yield browser
    browser.close()
    assert browser.complaints == [] and all(url.startswith(("file:", "data:", "blob:")) for url in browser.requests)


def red(browser, image):
    """Return the red level of the first pixel of an image that an expression finds."""
    return browser.js(
        f"(async e => {{ await e.decode(); const c = document.createElement('canvas').getContext('2d');"
        f" c.drawImage(e, 0, 0); return c.getImageData(1, 1, 1, 1).data[0]; }})({image})"
    )


def point(browser, kl):
    found = browser.js("JSON.parse(document.querySelector('[data-chart]').textContent).points"
                       f".findIndex(p => p.group === 'sqdf kl_coef {kl:g}')")  # fmt: skip
    return f"document.querySelector('.planes [data-tip=\"{found}\"] .hit')"


@browsed
@pytest.mark.parametrize("way", ["mouse", "touch"])
def test_a_pinned_point_is_shown_image_by_image_beside_the_base(page, way):
    if way == "touch":
        page.show_as(390, 844, phone=True)
        page.js("new Promise(done => setTimeout(done, 300))")
    {"mouse": page.click, "touch": page.tap}[way](point(page, 1.0))
    page.until("document.querySelector('.compared .cell img')")
    cells = "document.querySelector('.compared .noises').querySelectorAll('img')"
    assert page.js(f"{cells}.length") == 4  # two noises of the base, then of the point
    assert [red(page, f"{cells}[{k}]") for k in (0, 2)] == [20, 240]
    words = page.js("document.querySelector('.pins').innerText")
    assert PROMPTS[0] in words and "hps 0.24 (+0.22)" in words and "Copy command" in words
    assert page.js("document.documentElement.scrollWidth") <= (390 if way == "touch" else 1280)


@browsed
def test_a_second_point_stands_in_the_same_cells(page):
    page.click(point(page, 1.0))
    page.js(f"{point(page, 0.1)}.dispatchEvent(new MouseEvent('click', {{bubbles: true, shiftKey: true}}))")
    who = "[...document.querySelector('.compared .noises').querySelectorAll('.who')].map(e => e.textContent)"
    assert page.js(who) == ["base", "sqdf kl_coef 1", "sqdf kl_coef 0.1"]
    assert page.js("document.querySelectorAll('.pins pre').length") == 2


@browsed
def test_the_slider_moves_the_point_and_changes_its_images(page):
    page.js("document.querySelector('.knob input').focus()")
    seen = []
    for _ in range(2):
        page.press("ArrowRight")
        page.until("document.querySelector('.compared .cell img')")
        image = "document.querySelector('.compared .noises').querySelectorAll('img')[2]"
        seen.append((page.js("document.querySelector('.knob output').textContent"), red(page, image)))
        assert page.js("document.querySelectorAll('.planes .pinned').length") == page.js(
            "document.querySelectorAll('.planes .plot').length"
        )
        assert page.js("document.activeElement.type") == "range"
    assert seen == [("0.3", 160), ("1", 240)]
    shown = "document.querySelector('[data-of=setting]').value"
    assert page.js(shown) == "sqdf kl_coef 1"


@browsed
def test_the_gallery_is_sorted_by_difference(page):
    rows = by_prompt(comparison_of_page(page))
    heads = "[...document.querySelectorAll('.gallery tbody th')].map(e => e.textContent)"
    for score in ("entropy", "hps"):
        set_value(page, "score", score)
        change = dict(zip(PROMPTS, rows["rows"]["sqdf kl_coef 0.1"][score], strict=True))
        wanted = sorted(PROMPTS[:3], key=change.get)
        assert page.js(heads) == wanted
        set_value(page, "order", "best")
        assert page.js(heads) == wanted[::-1]
        set_value(page, "order", "worst")
    set_value(page, "order", "none")
    assert page.js(heads) == PROMPTS[:3] and page.js("document.querySelector('[data-of=score]').disabled")


def comparison_of_page(browser):
    from urllib.parse import unquote, urlparse

    path = unquote(urlparse(browser.js("location.href")).path)
    return comparison_of(path.rsplit("/", 2)[0] + "/runs")


def set_value(browser, name, value):
    browser.js(f"(s => (s.value = '{value}', s.dispatchEvent(new Event('change'))))"
               f"(document.querySelector('.gallery [data-of={name}]'))")  # fmt: skip


@browsed
def test_a_cell_is_enlarged_and_keys_go_to_other_noises_and_prompts(page):
    set_value(page, "order", "none")
    page.click("document.querySelector('.gallery .cell')")
    page.until("document.querySelector('dialog[open] .large img')")
    title = "document.querySelector('dialog h3').textContent"
    assert page.js("document.querySelectorAll('dialog .large img').length") == 4
    assert page.js(title) == f"{PROMPTS[0]} · image 1 of 2"
    page.press("ArrowRight", "ArrowDown")
    assert page.js(title) == f"{PROMPTS[1]} · image 2 of 2"
    page.press("Escape")
    page.until("!document.querySelector('dialog')")


@browsed
def test_the_gallery_is_saved_as_a_picture(page, tmp_path):
    (tmp_path / "saved").mkdir()
    page.downloads(tmp_path / "saved")
    page.click("document.querySelector('.gallery .export')")
    file = tmp_path / "saved" / "gallery.png"
    for _ in range(600):
        if file.is_file() and file.stat().st_size:
            break
        time.sleep(0.02)
    with Image.open(file) as picture:
        reds = {pixel[0] for _, pixel in picture.convert("RGB").getcolors(1 << 24)}
        assert picture.width > 4 * 128 and picture.height > 3 * 128 and {20, *REDS.values()} <= reds


@browsed
def test_the_slider_over_iterations_changes_the_picture_and_marks_the_curves(page):
    output, image = "document.querySelector('.time output').textContent", "document.querySelector('.time img')"
    assert (page.js(output), red(page, image)) == ("2", 200)
    page.js("document.querySelector('.time input').focus()")
    page.press("ArrowLeft")
    assert (page.js(output), red(page, image)) == ("0", 0)
    marks = "[...document.querySelectorAll('.curve .now')].map(e => e.getAttribute('d'))"
    assert page.js(marks) == ["M52 14V114", ""]  # train/reward begins there, eval/hps later


@browsed
def test_the_view_by_prompt_follows_the_pinned_point(page):
    page.click(point(page, 1.0))
    words = page.js("document.querySelector('.forest').textContent")
    assert "of sqdf kl_coef 1:" in words and "of 12 prompts gain" in words and PROMPTS[11] in words
    assert page.js("document.querySelectorAll('.forest circle').length") == 12
