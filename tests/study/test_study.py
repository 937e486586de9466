"""Tests the blind comparison: the page is balanced and reveals nothing, the tally counts exactly."""

import csv
import json
import math
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from rdt.prompts import write_rows
from rdt.report.read import read_run
from rdt.study import entry
from rdt.study.design import Options
from rdt.study.page import cell_uri, write_study
from rdt.study.sources import SampleGrid
from rdt.study.tally import alpha, over_raters, wilson
from rdt.training.record import grid_image, save_image
from worlds import children
from worlds.browser import Chromium, installed

PROMPTS = ["a <b>circle</b> & </script>", "a square", "a ring"]
GRID = (3, 4)
VOID = {"meta", "input"}
LEAKS = ("sqdf", "draft", "cfg", "tuned", "/samples", "runs")
KRIPPENDORFF = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."]


def images(seed, size=8):
    """Return images (rows, columns, 3, H, W) of whole levels, so that 8 bits lose nothing."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (*GRID, 3, size, size), generator=generator) / 255


def write_run(folder, method, seed=0, noise=0, prompts=PROMPTS):
    """Write a run folder with two points, and pictures as `rdt.training.record` saves them."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng((seed, *method.encode()))
    point = {"diversity": {}, "fidelity": {}, "per_prompt": {}, "n_prompts": 3, "n_per_prompt": 4, "prompts": prompts}

    def scored(label):
        return point | {"label": label, "guidance": {"name": label}, "reward": {"hps": {"mean": rng.normal()}}}

    points = [scored("cfg"), scored("aig power exponent=2")]
    result = {"schema": 2, "method": method, "reward": "hps", "model": "shapes", "seed": seed, "iterations": 9}
    (folder / "result.json").write_text(json.dumps(result | {"points": points, "base": scored("base")}))
    config = {"overrides": [f"method={method}"], "evaluation": {"seed": noise, "grid": list(GRID)}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "samples").mkdir()
    write_rows(folder / "samples", prompts)
    for k, name in enumerate(("base", "tuned", "aig-power-exponent-2")):
        save_image(grid_image(images(k and 10 * len(method) + 100 * seed + k)), folder / "samples" / f"{name}.png")


@pytest.fixture
def runs(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path / "runs" / f"sqdf{seed}", "sqdf", seed)
        write_run(tmp_path / "runs" / f"draft{seed}", "draft", seed)
    return tmp_path / "runs"


def written(runs, out, pairs=None, size=1, seed=0, names=""):
    return write_study([runs], out, Options(pairs, size, seed), names)


def shown(out):
    """Return the data in the page."""
    text = (out / "study.html").read_text()
    return json.loads(text.partition('id="study">')[2].partition("</script>")[0])


class Page(HTMLParser):
    """Checks that every tag is closed, and collects every address."""

    def __init__(self, text):
        super().__init__()
        self.open, self.addresses = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "href", "action", "srcset")]
        self.open += [tag] if tag not in VOID else []

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize("size", [8, 64, 300])
def test_an_image_is_cut_out_as_it_was_recorded(tmp_path, size):
    write_run(tmp_path / "run", "sqdf")
    recorded = images(7, size)
    save_image(grid_image(recorded), tmp_path / "run" / "samples" / "base.png")
    run = read_run(tmp_path / "run")
    grid = SampleGrid(run, run.result.base)
    grid.check()
    scale = max(1, 64 // size)
    found, pixels = np.asarray(grid.image(2, 1)), (recorded[2, 1] * 255).round().byte().permute(1, 2, 0).numpy()
    assert (found == pixels.repeat(scale, 0).repeat(scale, 1)).all()
    assert cell_uri(grid, 2, 1).startswith("data:image/png" if size <= 256 else "data:image/jpeg")


def test_the_page_is_well_formed_loads_nothing_and_reveals_nothing(runs, tmp_path):
    study = written(runs, tmp_path / "out", names="base,*cfg")
    text = study.page.read_text()
    page, data = Page(text), shown(tmp_path / "out")
    assert page.open == [] and page.addresses == [] and "http" not in text.replace("http-equiv", "")
    outside = text.replace(json.dumps(data["images"])[1:-1], "")
    assert not [leak for leak in LEAKS if leak in outside.lower().replace("__main__", "")]
    ids = [one["id"] for pair in data["pairs"] for one in (pair, pair["left"], pair["right"])]
    assert len(ids) == len(set(ids)) == 3 * len(data["pairs"])
    assert [pair["prompt"] for pair in data["pairs"]] == [pair["prompt"] for pair in study.key["pairs"]]
    assert {pair["prompt"] for pair in data["pairs"]} == set(PROMPTS)


def test_every_id_shows_the_images_that_the_key_names(runs, tmp_path):
    study = written(runs, tmp_path / "out", size=2, names="base,*cfg")
    data = shown(tmp_path / "out")
    for pair, keyed in zip(data["pairs"], study.key["pairs"], strict=True):
        for side in ("left", "right"):
            source = keyed[side]
            run = read_run(Path(source["picture"]).parents[1])
            grids = (SampleGrid(run, point) for point in (run.result.base, *run.result.points))
            grid = next(g for g in grids if str(g.path) == source["picture"])
            wanted = [cell_uri(grid, source["row"], column) for column in source["columns"]]
            assert [data["images"][k] for k in pair[side]["images"]] == wanted
            assert pair[side]["id"] == source["id"] and grid.prompts[source["row"]] == pair["prompt"]


@pytest.mark.parametrize(("pairs", "size"), [(30, 1), (29, 1), (18, 2), (None, 1)])
def test_settings_sides_and_prompts_are_balanced(runs, tmp_path, pairs, size):
    study = written(runs, tmp_path / "out", pairs, size, names="base,*cfg")
    entries = study.key["pairs"]
    assert len(entries) == (pairs or 60)
    couples, lefts = Counter(), Counter()
    for pair in entries:
        sides = pair["left"]["setting"], pair["right"]["setting"]
        couples[tuple(sorted(sides))] += 1
        lefts[tuple(sorted(sides))] += sides[0] == min(sides)
    assert len(couples) == 3 and max(couples.values()) - min(couples.values()) <= 1
    assert all(abs(2 * lefts[couple] - count) <= 1 for couple, count in couples.items())
    prompts = Counter(pair["prompt"] for pair in entries)
    assert max(prompts.values()) - min(prompts.values()) <= len(couples)
    assert len({json.dumps([pair["left"]["picture"], pair["right"]["picture"], pair["left"]["columns"],
                            pair["prompt"]]) for pair in entries}) == len(entries)  # fmt: skip


def test_the_same_seed_makes_the_same_study_and_the_page_does_not_reveal_it(runs, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        written(runs, tmp_path / name, 20, seed=seed, names="base,sqdf cfg")
    a, b, c = ((tmp_path / name / "study.html").read_text() for name in "abc")
    assert a == b and a != c
    result = runs / "sqdf0" / "result.json"
    record = json.loads(result.read_text())
    record["points"][0]["reward"]["hps"]["mean"] += 1e-9  # which no page shows
    result.write_text(json.dumps(record))
    written(runs, tmp_path / "d", 20, names="base,sqdf cfg")
    keys = [json.loads((tmp_path / name / "key.json").read_text()) for name in "ad"]
    sides = [[pair["left"]["setting"] for pair in key["pairs"]] for key in keys]
    assert keys[0]["study"] != keys[1]["study"] and sides[0] != sides[1]


def test_equal_noise_is_paired_and_other_noise_is_marked(runs, tmp_path):
    study = written(runs, tmp_path / "out", names="sqdf*")
    for pair in study.key["pairs"]:
        assert pair["same_noise"] and pair["left"]["seed"] == pair["right"]["seed"]
        assert [pair["left"][k] for k in ("row", "columns")] == [pair["right"][k] for k in ("row", "columns")]
    write_run(tmp_path / "other", "grpo", 0, noise=5)
    study = write_study([runs, tmp_path / "other"], tmp_path / "two", Options(None, 1, 0), "sqdf cfg,grpo cfg")
    assert study.key["pairs"] and not any(pair["same_noise"] for pair in study.key["pairs"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pairs=25", "settings=base,sqdf cfg"], "more than the 24 that are possible"),
        (["pairs=2"], "leaves some of the 10 pairs of settings out"),
        (["set=5"], "no prompt in common with 5 images a side"),
        (["settings=base,ddpo"], "settings=ddpo is none of base, draft aig power exponent=2, draft cfg,"),
        (["settings=base"], "needs two settings"),
        (["pairs=0"], "expected a whole number, 1 or more"),
        (["sides=2"], "'sides=2' is none of runs=..."),
    ],
)
def test_an_impossible_study_is_one_line_and_writes_nothing(runs, tmp_path, capsys, arguments, words):
    assert entry([f"runs={runs}", f"out={tmp_path / 'out'}", *arguments]) == 1
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_a_missing_or_broken_picture_is_named(runs, tmp_path, capsys):
    picture = runs / "sqdf1" / "samples" / "aig-power-exponent-2.png"
    picture.unlink()
    assert entry([f"runs={runs}"]) == 1 and f"{picture} is missing" in capsys.readouterr().err
    Image.new("RGB", (50, 50)).save(picture)
    assert entry([f"runs={runs}"]) == 1 and "not 3 rows of 4 images" in capsys.readouterr().err
    assert entry([f"runs={runs}", "settings=*cfg"]) == 0
    assert (runs / "study" / "key.json").is_file()


def test_the_key_of_another_study_is_not_overwritten(runs, tmp_path, capsys):
    arguments = [f"runs={runs}", f"out={tmp_path / 'out'}", "pairs=12", "settings=base,sqdf cfg"]
    assert entry(arguments) == 0 and entry(arguments) == 0
    assert entry([*arguments, "seed=1"]) == 1 and "give another out=" in capsys.readouterr().err


def ballot(key, rater, outcomes, name="", at="2026-01-01T00:00:00Z", study_id=None):
    """Return votes on the first pairs: the preferred setting, or tie, for every question."""
    votes = []
    for pair, outcome in zip(key["pairs"], outcomes, strict=False):
        side = next((s for s in ("left", "right") if pair[s]["setting"] == outcome), "tie")
        ids = {s: pair[s]["id"] for s in ("left", "right")}
        answers = dict.fromkeys(key["questions"], side)
        votes.append(
            {"pair": pair["id"], "prompt": pair["prompt"], **ids, "at": at, "answers": answers, "seconds": 2.5}
        )
    head = {"kind": "rdt study votes", "version": 1, "study": study_id or key["study"]}
    return head | {"rater": rater, "name": name, "votes": votes}


@pytest.fixture
def counted(runs, tmp_path, capsys):
    """Return the key, and a function from votes to the rows of tally.csv, or to the error."""
    key = written(runs, tmp_path / "out", 12, names="base,sqdf cfg").key

    def tally(*ballots):
        (tmp_path / "out" / "votes").mkdir(exist_ok=True)
        files = [tmp_path / "out" / "votes" / f"{k}.json" for k in range(len(ballots))]
        for file, one in zip(files, ballots, strict=True):
            file.write_text(one if isinstance(one, str) else json.dumps(one))
        if entry(["tally", *map(str, files)]):
            return capsys.readouterr().err
        return list(csv.DictReader((tmp_path / "out" / "tally.csv").read_text().splitlines()))

    return key, tally


def test_a_tally_counts_exactly(counted):
    key, tally = counted
    a = ballot(key, "a", ["base", "base", "tie", "sqdf cfg", "base"])
    b = ballot(key, "b", ["base", "sqdf cfg", "tie"])
    rows = tally(a, b)
    assert [row["question"] for row in rows] == ["alignment", "looks", "overall"]
    row = rows[0]
    assert [row[k] for k in ("first", "second", "votes", "raters")] == ["base", "sqdf cfg", "8", "2"]
    assert [row[k] for k in ("first_wins", "ties", "second_wins")] == ["4", "2", "2"]
    assert float(row["win_rate"]) == 5 / 8
    # Wilson by hand: centre (5 + z^2 / 2) / (8 + z^2), half z sqrt(8 * 5/8 * 3/8 + z^2 / 4) / (8 + z^2)
    z = 1.959963984540054
    centre, half = (5 + z * z / 2) / (8 + z * z), z * math.sqrt(15 / 8 + z * z / 4) / (8 + z * z)
    assert float(row["wilson_lo"]) == pytest.approx(centre - half, abs=1e-12)
    assert float(row["wilson_hi"]) == pytest.approx(centre + half, abs=1e-12)
    assert float(row["raters_lo"]) <= 5 / 8 <= float(row["raters_hi"])
    sides = [[vote["answers"]["alignment"] for vote in one["votes"][:3]] for one in (a, b)]
    assert float(row["alpha"]) == pytest.approx(alpha(zip(*sides, strict=True)), abs=1e-12)


def test_one_rater_has_no_interval_over_raters_and_no_agreement(counted):
    key, tally = counted
    row = tally(ballot(key, "a", ["base", "tie"]))[0]
    assert (row["raters_lo"], row["raters_hi"], row["alpha"], row["alpha_question"]) == ("", "", "", "")
    assert float(row["win_rate"]) == 0.75


def test_a_rater_counts_once_and_with_the_latest_answers(counted):
    key, tally = counted
    early = ballot(key, "a", ["base", "base"])
    late = ballot(key, "a", ["sqdf cfg", "base", "base"], at="2026-01-02T00:00:00Z")
    row, *_ = tally(late, early, early)
    assert (row["votes"], row["raters"], row["first_wins"], row["second_wins"]) == ("3", "1", "2", "1")
    at_home = ballot(key, "b", ["base"], name=" Anna  B", at="2026-01-03T00:00:00Z")
    row, *_ = tally(early, at_home, late | {"name": "anna b"})  # the same name in two browsers
    assert (row["votes"], row["raters"], row["first_wins"]) == ("3", "1", "3")


def test_votes_of_another_study_are_refused(counted):
    key, tally = counted
    fine, swapped, other = (ballot(key, rater, ["base", "tie"]) for rater in "abc")
    assert f"holds votes of study feed, the key is of study {key['study']}" in tally(fine, other | {"study": "feed"})
    vote = swapped["votes"][0]
    vote["left"], vote["right"] = vote["right"], vote["left"]
    assert "are not those of the key" in tally(swapped)
    other["votes"][1]["answers"]["alignment"] = "both"
    assert "alignment=both; expected one of left, tie, right for one of alignment, looks, overall" in tally(other)
    for text in ("{", "[]", json.dumps({"kind": "rdt study votes", "version": 2})):
        error = tally(text)
        assert error.startswith("error: ") and error.count("\n") == 1
    assert "hold no vote" in tally(fine | {"votes": []})


def test_alpha_is_that_of_krippendorff():
    """Check his own example (2011, section C: four observers, twelve units, missing data), and one by hand."""
    units = [[value for value in unit if value != "."] for unit in zip(*KRIPPENDORFF, strict=True)]
    assert alpha(units) == pytest.approx(0.743, abs=5e-4)
    # n = 8 answers: 3 left, 3 right, 2 ties; one unit apart: 1 - 7 * 2 / (64 - 22)
    assert alpha([["left", "left"], ["left", "right"], ["right", "right"], ["tie", "tie"]]) == pytest.approx(2 / 3)
    assert math.isnan(alpha([["left"], ["right"]])) and math.isnan(alpha([["left", "left"]]))


def test_wilson_agrees_with_published_intervals():
    """The intervals of 81 of 263, 15 of 148, 0 of 20 and 1 of 29 are those of Newcombe 1998, table I."""
    for wins, votes, lo, hi in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        found = wilson(wins, votes)
        assert (found.lo, found.hi) == (pytest.approx(lo, abs=5e-5), pytest.approx(hi, abs=5e-5))


def test_the_interval_over_raters_covers_when_raters_differ():
    """About 95 % of the intervals hold the population's rate; of Wilson's intervals far fewer do."""
    rng = np.random.default_rng(0)
    hits = np.zeros(2)
    for k in range(300):
        votes = rng.integers(10, 40, 8)
        wins = rng.binomial(votes, rng.beta(3, 2, 8))
        for way, found in enumerate((over_raters(wins.tolist(), votes.tolist(), k), wilson(wins.sum(), votes.sum()))):
            hits[way] += found.lo <= 0.6 <= found.hi
    assert 0.92 <= hits[0] / 300 <= 0.98 and hits[1] / 300 < 0.8


def test_the_command_answers_without_torch():
    code = "import sys; from rdt.study import entry; entry(['-h']); print({'torch', 'hydra'} & set(sys.modules))"
    done = children.run([sys.executable, "-c", code], check=True)
    assert done.stdout.startswith("usage: python -m rdt.study") and done.stdout.splitlines()[-1] == "set()"


@pytest.mark.skipif(installed() is None, reason="no Chromium here")
def test_a_study_is_answered_by_keyboard_alone(runs, tmp_path, capsys):
    key = written(runs, tmp_path / "out", 4, size=2, names="base,sqdf cfg").key
    browser = Chromium(tmp_path)
    try:
        _vote(browser, tmp_path)
        _save(browser, tmp_path / "saved")
    finally:
        browser.close()
    assert browser.complaints == [] and all(url.startswith(("file:", "data:", "blob:")) for url in browser.requests)
    (votes,) = (tmp_path / "saved").glob("*.json")
    given = [vote["answers"] for vote in json.loads(votes.read_text())["votes"]]
    names = ("alignment", "looks", "diversity", "overall")
    wanted = [
        ("left", "left", "tie", "right"), ("right", "right", "tie", "left"),
        ("left", "left", "left", "left"), ("right", "right", "right", "tie"),
    ]  # fmt: skip
    assert given == [dict(zip(names, answers, strict=True)) for answers in wanted]
    assert entry(["tally", str(votes), f"key={tmp_path / 'out' / 'key.json'}"]) == 0
    rows = {row["question"]: row for row in csv.DictReader((tmp_path / "out" / "tally.csv").read_text().splitlines())}
    lefts = [
        pair[side]["setting"] == "base"
        for pair, side in zip(key["pairs"], ("left", "right", "left", "right"), strict=True)
    ]
    assert int(rows["alignment"]["first_wins"]) == sum(lefts) and rows["diversity"]["ties"] == "2"
    assert "1 rater, 4 pairs answered" in capsys.readouterr().out


@pytest.mark.skipif(installed() is None, reason="no Chromium here")
def test_a_study_is_answered_and_undone_by_touch_on_a_phone(runs, tmp_path):
    written(runs, tmp_path / "out", 3, names="base,sqdf cfg")
    browser = Chromium(tmp_path)
    try:
        browser.show_as(390, 844, phone=True)
        browser.open(tmp_path / "out" / "study.html")
        browser.tap("document.querySelector('#begin button')")
        for answer in ("left", "tie", "right"):
            browser.tap(f"document.querySelector('[data-answer={answer}]')")
        browser.tap("document.querySelector('[data-of=vote] [data-act=u]')")
        browser.until("state.answers.length === 2")
        shown = "[...document.querySelectorAll('button')].filter(e => e.checkVisibility())"
        inside = f"{shown}.map(e => e.getBoundingClientRect())"
        assert browser.js(f"{inside}.every(b => b.left >= 0 && b.right <= 390 && b.bottom <= 844 && b.height >= 40)")
        assert browser.js("document.documentElement.scrollWidth") == 390
        for _ in range(7):
            browser.tap("document.querySelector('[data-answer=right]')")
        browser.until("view() === 'done'")
    finally:
        browser.close()
    assert browser.complaints == []


def _vote(browser, folder):
    """Answer, undo, leave, come back and finish without a pointer."""
    page = folder / "out" / "study.html"
    browser.open(page)
    browser.press(*"Ann 1", "Enter")
    assert browser.js("state.name") == "Ann 1"
    browser.press("1", "1", "ArrowDown", "3", "ArrowRight", "3", "1", "Backspace", "2", "1", "1")
    browser.press("u", "ArrowLeft")
    browser.open(page)
    assert browser.js("find('go').textContent") == "Go on after 2 of 4"
    browser.js("document.activeElement.blur()")  # as a click beside the field does
    browser.press("Enter")
    assert browser.js("find('bar').getAttribute('aria-valuenow')") == "9"
    assert browser.js("document.querySelectorAll('#left img').length") == 2
    browser.press("1", "1", "1", "3", "3", "3", "2")
    assert browser.js("view()") == "done"


def _save(browser, folder):
    """Save the answers into the folder and hand over to the next person."""
    folder.mkdir()
    browser.downloads(folder)
    browser.press("Enter")
    browser.until("state.saved === 16")
    for _ in range(200):
        if list(folder.glob("*.json")):
            break
        browser.js("new Promise((done) => setTimeout(done, 50))")
    browser.press("n")
    assert browser.js("view()") == "start" and browser.js("state.answers.length") == 0
