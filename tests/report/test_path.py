"""The figures draw the path of a training from the base on, as its small evaluations lie from the base's."""

import json
import re

from rdt.report.compare import compare
from rdt.report.path import TRAINING, paths_of
from rdt.report.read import read_runs
from rdt.report.write import report
from worlds.run_folders import write_run

ROWS = """iteration,train/reward,eval/hps,eval/gain/hps,eval/gain/gold,eval/gain/entropy
0,0.1,,,,
9,0.2,0.3,0.01,0.02,-0.1
10,0.2,,,,
19,0.3,0.4,0.03,-0.01,-0.2
"""


def of(folder):
    return compare(read_runs([folder])[0])[0]


def test_a_path_starts_at_the_base_and_follows_the_small_evaluations(sweep) -> None:
    (sweep / "0" / "metrics.csv").write_text(ROWS)
    (path,) = paths_of(of(sweep))
    assert path.run.result.method == "sqdf"
    assert path.along("diversity/entropy", "reward/gold") == [(0.0, 0.0), (-0.1, 0.02), (-0.2, -0.01)]
    assert path.along("diversity/vendi", "reward/gold") == []


def test_a_row_without_finite_numbers_is_left_out(sweep) -> None:
    (sweep / "0" / "metrics.csv").write_text(ROWS.replace("0.03,-0.01,-0.2", "0.03,nan,-0.2") + "20,0.1,x,y\n")
    (path,) = paths_of(of(sweep))
    assert path.gains == {"hps": [0.01], "gold": [0.02], "entropy": [-0.1]}


def test_many_runs_have_no_paths(tmp_path) -> None:
    for seed in range(13):
        write_run(tmp_path / str(seed), "sqdf", seed)
        (tmp_path / str(seed) / "metrics.csv").write_text(ROWS)
    assert paths_of(of(tmp_path)) == []


def test_picture_and_page_hold_the_path_and_name_it(sweep) -> None:
    (sweep / "0" / "metrics.csv").write_text(ROWS)
    report([sweep], sweep)
    page = (sweep / "report.html").read_text()
    data = json.loads(re.search(r"<script type=\"application/json\" data-chart>(.*?)</script>", page)[1])
    (trail,) = data["trails"]
    assert trail["method"] == "sqdf" and trail["gains"]["gold"] == [0.0, 0.02, -0.01]
    assert TRAINING in page and TRAINING in (sweep / "front.svg").read_text()
