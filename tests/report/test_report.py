"""Laws of the report: nothing is lost between a run folder and what people read, and nothing hides behind a failure."""

import csv
import json
import math
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from rdt.report.__main__ import main
from rdt.report.compare import compare
from rdt.report.duels import method_pairs
from rdt.report.page import read_curves
from rdt.report.read import read_runs
from rdt.report.write import report
from rdt.result import slug
from rdt.training import folder
from worlds.run_folders import FRONTIER, write_run

VOID = {"meta", "img", "link", "br"}


class Page(HTMLParser):
    """Opens what it closes, and remembers every address."""

    def __init__(self, text):
        super().__init__()
        self.open, self.addresses, self.words = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture
def sweep(tmp_path):
    write_run(tmp_path / "0", "sqdf", 0)
    write_run(tmp_path / "1", "draft", 0, {"reward/hps": 0.05, "reward/gold": -0.02, "diversity/entropy": -0.4})
    return tmp_path


def test_report_writes_whole_files_that_need_no_network(sweep):
    page = report([sweep], sweep / "out")
    fronts = {f"front.{form}" for form in ("png", "svg", "csv", "tex")}
    assert {path.name for path in (sweep / "out").iterdir()} == {"report.html", "duels.csv"} | fronts
    parsed = Page(page.read_text())
    assert parsed.open == []
    assert len(parsed.addresses) == 1 + 3  # the figure, the base's grid and one for each method
    assert all(address.startswith("data:image/") for address in parsed.addresses)
    assert "http://" not in page.read_text() and "https://" not in page.read_text()
    with Image.open(sweep / "out" / "front.png") as picture:
        picture.load()
        assert picture.width > 1000


def test_csv_holds_every_point_of_every_result(sweep):
    report([sweep], sweep)
    rows = list(csv.DictReader((sweep / "front.csv").open()))
    assert [row["kind"] for row in rows].count("base") == 2
    for row in rows:
        result = json.loads((Path(row["path"]) / "result.json").read_text())
        wanted = result["base"] if row["kind"] == "base" else result["points"][0]
        assert float(row["reward/hps"]) == wanted["reward"]["hps"]["mean"]
        assert [float(row["diversity/entropy_lo"]), float(row["diversity/entropy_hi"])] == wanted["diversity"][
            "entropy"
        ]["ci95"]
        assert (row["reward/gold_diff"] == "") == (row["kind"] == "base")


@pytest.mark.parametrize(
    "name, content, reason",
    [
        ("result.json", '{"schema": 2, "met', "corrupt"),
        ("result.json", '{"schema": 3}', "schema 3"),
        ("result.json", '{"schema": 2, "method": "sqdf"}', "lacks reward"),
        ("result.json", "[]", "schema None"),
        ("config.yaml", "seed: 1\n", "no result.json"),
    ],
)
def test_a_failed_run_is_listed_and_hides_no_other(sweep, capsys, name, content, reason):
    (sweep / "broken").mkdir()
    (sweep / "broken" / name).write_text(content)
    assert main([f"runs={sweep}"]) == 0
    assert reason in capsys.readouterr().out
    words = "".join(Page((sweep / "report.html").read_text()).words)
    assert "1 failed" in words and reason in words and "sqdf" in words and "draft" in words


def test_a_number_that_is_none_fails_its_run(sweep):
    result = json.loads((sweep / "0" / "result.json").read_text())
    result["points"][0]["reward"]["hps"]["mean"] = math.nan
    (sweep / "0" / "result.json").write_text(json.dumps(result))
    runs, failures = read_runs([sweep])
    assert [run.result.method for run in runs] == ["draft"]
    assert "points[0] reward/hps is nan" in failures[0].reason


def test_a_job_that_died_before_its_config_is_a_failure(sweep):
    folder.fail(sweep / "2", "method.lr=0 must be greater than 0")
    (failure,) = read_runs([sweep])[1]
    assert (failure.path.name, failure.reason) == ("2", "method.lr=0 must be greater than 0")


def test_runs_are_found_once_at_any_depth(sweep):
    write_run(sweep / "deep" / "er" / "run")
    write_run(sweep / "0" / "checkpoints" / "kept")  # not a run of its own
    runs, failures = read_runs([sweep, sweep / "0", sweep / "deep"])
    assert len(runs) == 3 and not failures


def test_seeds_stay_points_and_have_a_mean(tmp_path):
    results = [write_run(tmp_path / str(seed), seed=seed, overrides=["method.kl_coef=0.3"]) for seed in range(3)]
    write_run(tmp_path / "other", seed=0, overrides=["method.kl_coef=1"])
    (comparison,) = compare(read_runs([tmp_path])[0])
    assert [(group.setting, len(group.points)) for group in comparison.groups] == [("kl_coef 0.3", 3), ("kl_coef 1", 1)]
    gold = comparison.groups[0].scores["reward/gold"]
    assert gold.value.mean == pytest.approx(np.mean([r["points"][0]["reward"]["gold"]["mean"] for r in results]))
    assert gold.diff.mean == pytest.approx(np.mean([r["points"][0]["reward"]["gold"]["diff"]["mean"] for r in results]))
    assert gold.value.lo < gold.value.mean < gold.value.hi


def test_seeds_are_recognised_without_recorded_overrides(tmp_path):
    for seed, kl in ((0, 0.3), (1, 0.3), (0, 1.0)):
        folder = tmp_path / f"{seed}-{kl}"
        write_run(folder, seed=seed)
        config = {"seed": seed, "output_dir": str(folder), "method": {"kl_coef": kl}, "logger": {"name": f"s{seed}"}}
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (comparison,) = compare(read_runs([tmp_path])[0])
    assert [(group.setting, len(group.points)) for group in comparison.groups] == [
        ("kl_coef 0.3", 2),
        ("kl_coef 1.0", 1),
    ]


def test_only_what_was_measured_alike_is_compared(sweep):
    write_run(sweep / "sd", model="sd15")
    assert [comparison.model for comparison in compare(read_runs([sweep])[0])] == ["shapes", "sd15"]
    assert report([sweep], sweep).is_file()


def test_a_front_on_the_limit_has_all_of_its_hypervolume_and_no_gap(tmp_path):
    for index, entry in enumerate(FRONTIER[::2]):
        shift = {"reward/gold": entry["gold"] - 0.8, "diversity/entropy": entry["entropy_sampled"] - 0.95}
        write_run(tmp_path / str(index), shift=shift, overrides=[f"method.kl_coef={index}"])
    runs = read_runs([tmp_path])[0]
    (found,) = compare(runs)[0].limit_shares()
    assert (found.method, found.reward) == ("sqdf", "reward/gold")
    assert found.share == pytest.approx(1, abs=0.12)  # 15 steps under a smooth curve, and noisy means
    assert found.gap == pytest.approx(0, abs=0.05)


def test_the_command_repeats_the_run(tmp_path):
    write_run(tmp_path / "typed", seed=3, overrides=["prompts.file=my prompts.txt"])
    write_run(tmp_path / "untyped", seed=4)
    (tmp_path / "untyped" / "config.yaml").unlink()
    typed, untyped = (run.command for run in read_runs([tmp_path])[0])
    assert typed == "python -m rdt.run reward=hps model=shapes method=sqdf seed=3 'prompts.file=my prompts.txt'"
    assert untyped == "python -m rdt.run method=sqdf reward=hps model=shapes seed=4 iterations=60"


def test_names_cannot_break_out_of_the_page(tmp_path):
    write_run(tmp_path / "run", method="<b>x</b>", label="</script><img src=x>")
    write_run(tmp_path / "twin", method="<b>x</b>", label="$x^$")
    (tmp_path / "run" / "samples" / "prompts.txt").write_text("a $5 note on a $frac{table\n<i>x\n")
    parsed = Page(report([tmp_path], tmp_path).read_text())
    assert parsed.open == [] and "x" not in parsed.addresses


def test_an_unreadable_picture_is_left_out(sweep):
    (sweep / "0" / "samples" / "tuned.png").write_bytes(b"half a picture")
    assert len(Page(report([sweep], sweep).read_text()).addresses) == 1 + 2


def test_curves_keep_what_is_finite(sweep):
    curves = read_curves(sweep / "0" / "metrics.csv")
    assert curves == {"train/reward": [(0, 0.2), (1, 0.3), (3, 0.4)], "eval/hps": [(1, 0.21), (2, 0.22)]}


@pytest.mark.parametrize(
    "arguments, word",
    [
        (["runs=nowhere"], "nowhere"),
        (["runs=."], "no runs"),
        (["rums=."], "rums"),
        (["out=."], "runs="),
        (["runs=.", "wandb=maybe"], "maybe"),
    ],
)
def test_bad_input_is_one_line_and_status_2(tmp_path, monkeypatch, capsys, arguments, word):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert word in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_answers_without_the_heavy_libraries():
    code = "import sys; from rdt.report.__main__ import main; main(['--help']); print(*HEAVY & set(sys.modules))"
    code = f"HEAVY = {{'torch', 'matplotlib', 'wandb'}}; {code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""


def test_the_rdt_command_finds_the_report(tmp_path):
    code = "import sys; sys.argv = ['rdt', 'report', 'runs=nowhere']; from rdt.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "error: runs=nowhere names no folder\n")


@pytest.mark.slow
def test_wandb_run_of_the_front_is_written_offline(sweep, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    report([sweep], sweep / "out", wandb=True)
    (run,) = (sweep / "out" / "wandb").glob("offline-run-*")
    assert list(run.glob("run-*.wandb")) and list(run.glob("files/media/images/**/*.png"))
    assert list(run.glob("files/media/table/**/*.json"))


def test_methods_fight_over_common_resamples(tmp_path, monkeypatch):
    """One gains the same reward at less of a price, in every seed; a method beside itself is not told apart."""
    monkeypatch.setattr("rdt.report.duels.RESAMPLES", 200)
    for seed in range(3):
        write_run(tmp_path / f"a{seed}", "sqdf", seed, {"reward/hps": 0.05, "diversity/entropy": -0.05})
        write_run(tmp_path / f"b{seed}", "draft", seed, {"reward/hps": 0.05, "diversity/entropy": -0.4})
        write_run(tmp_path / f"c{seed}", "refl", seed, {"reward/hps": 0.05, "diversity/entropy": -0.05})
    comparison = compare(read_runs([tmp_path])[0])[0]
    found = {(d.first, d.second): d.difference for d in method_pairs(comparison) if d.reward == "reward/hps"}
    assert {pair: one.verdict for pair, one in found.items()} == {
        ("draft", "refl"): "worse", ("draft", "sqdf"): "worse", ("refl", "sqdf"): "not told apart",
    }  # fmt: skip
    assert found["draft", "sqdf"].larger == 0 and found["draft", "sqdf"].diversity.hi < 0
    page = report([tmp_path], tmp_path / "out").read_text()
    assert "Fronts against each other" in page and "not told apart" in page
    rows = list(csv.DictReader((tmp_path / "out" / "duels.csv").open()))
    assert [row["verdict"] for row in rows if row["in"] == "reward/hps"] == ["worse", "worse", "not told apart"]


def test_the_latex_table_says_what_latex_would_not_print(tmp_path):
    write_run(tmp_path / "0", "sqdf_x", 0, label="50% & more")
    report([tmp_path], tmp_path / "out")
    table = (tmp_path / "out" / "front.tex").read_text()
    assert r"sqdf\_x" in table and table.count(r"\\") == 3 and r"\pm" in table  # head, base, one group
    assert not (tmp_path / "out" / "duels.csv").exists()  # of one method


def test_file_names_keep_a_number_s_sign():
    assert slug("lora_scale scale=-1") != slug("lora_scale scale=1")
    assert slug("Adam 1e-05 / 2026-11") == "adam-1e-05-2026-11"
