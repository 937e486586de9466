"""No table of the terminal loses a name or a number, however narrow the terminal is."""

import re

import pytest

from rdt.pareto import Interval
from rdt.report.compare import compare
from rdt.report.read import read_runs
from rdt.report.terminal import print_tables
from rdt.report.text import difference, half
from worlds.run_folders import write_run


@pytest.mark.parametrize("columns", [40, 60, 100, 160])
def test_names_and_numbers_are_whole_at_every_width(tmp_path, monkeypatch, capsys, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    write_run(tmp_path / "0", "draft_plus", 0, overrides=["method.kl_coef=0.25"])
    write_run(tmp_path / "1", "draft_plus", 0, overrides=["method.kl_coef=0.5"])
    print_tables(compare(read_runs([tmp_path])[0]), [])
    printed = capsys.readouterr().out
    assert "…" not in printed and "..." not in printed
    assert all(name in printed for name in ("draft_plus", "kl_coef 0.25", "kl_coef 0.5", "entropy", "hacking gap, SD"))
    assert len(re.findall(r"Δ [+-]\d", printed)) == 2 * 3


def test_a_hundred_lines_about_pairs_are_left_to_the_page(tmp_path, capsys):
    for index in range(5):
        write_run(tmp_path / str(index), f"method{index}")
    print_tables(compare(read_runs([tmp_path])[0]), [])
    printed = capsys.readouterr().out
    assert "and 14 more lines of this kind in report.html" in printed and printed.count(" against ") == 6


@pytest.mark.parametrize(
    "value, whole, short",
    [
        (Interval(0.0067, 0.0032, 0.01), "+0.0067 [+0.0032, +0.0100]", "+0.0067 ±0.0034"),
        (Interval(135.2, 92.5, 178), "+135 [+92, +178]", "+135 ±43"),
        (Interval(21.4, -180, 222), "+21 [-180, +222]", "+21 ±201"),
        (Interval(2.0, 2.0, 2.0), "+2 [+2, +2]", ""),
    ],
)
def test_a_mean_and_its_bounds_have_equally_many_decimals(value, whole, short):
    assert difference(value) == whole and half(value, "+") == short
