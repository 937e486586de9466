"""Points of many runs -> fronts: report.html, front.png, .svg, .csv and .tex, duels.csv, a table in the terminal.

`python -m rdt.report runs=<dir or glob> [out=<dir>] [wandb=true]`
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rdt.report.folders import read_runs
from rdt.report.fronts import Comparison
from rdt.report.gather import compare
from rdt.report.records import Failure


def report(run_dirs: list[Path], out: Path, wandb: bool = False) -> Path:
    """Write the report over all runs at or below run_dirs into out and say where; the path of its report.html.

    Folders without a usable result are listed as failed. ValueError: no run is left; OSError: out is not writable;
    UsageError: W&B refuses, when all is written.
    """
    from rdt.report import figure, grids, terminal

    runs, failures = read_runs([Path(folder) for folder in run_dirs])
    if not runs:
        raise ValueError(_nothing(run_dirs, [f"{failure.path}: {failure.reason}" for failure in failures]))
    comparisons, out = compare(runs), Path(out)
    out.mkdir(parents=True, exist_ok=True)
    shown = grids.grids_of(comparisons[0], most=4)
    _write(out / "front.png", lambda path: figure.draw(comparisons, shown, path))
    _write(out / "front.svg", lambda path: figure.draw(comparisons, [], path, "svg"))
    for name, text in _texts(comparisons, failures, out / "front.png").items():
        _write(out / name, partial(_text, text))
    terminal.print_tables(comparisons, failures)
    print(f"report   {out / 'report.html'}\npicture  {out / 'front.png'}\ntable    {out / 'front.csv'}", flush=True)
    if wandb:
        from rdt.report.board import log_pareto

        log_pareto(comparisons, out)
    return out / "report.html"


def _texts(comparisons: list[Comparison], failures: list[Failure], picture: Path) -> dict[str, str]:
    """What stands in each file; duels where there are two methods to fight one."""
    from rdt.report import duels, latex, page, rows

    found = {
        "front.csv": rows.front_csv(comparisons),
        "front.tex": latex.front_tex(comparisons),
        "report.html": page.page(comparisons, failures, picture),
    }
    fought = any(len(comparison.methods) > 1 for comparison in comparisons)
    return found | ({"duels.csv": duels.duels_csv(comparisons)} if fought else {})


def entry() -> int:
    """What `rdt report` calls: the command line's exit status."""
    from rdt.report.__main__ import main

    return main()


def _nothing(run_dirs: list[Path], failures: list[str]) -> str:
    where = ", ".join(map(str, run_dirs[:2])) + " ..." * (len(run_dirs) > 2)
    if not failures:
        return f"no runs in {where}: want folders that hold a result.json"
    return f"no usable run in {where}: {failures[0]}" + f" (and {len(failures) - 1} more)" * (len(failures) > 1)


def _text(text: str, path: Path) -> None:
    path.write_text(text, "utf-8")


def _write(path: Path, write: Callable[[Path], object]) -> None:
    """Write under another name first, so that nobody meets half a file."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(unfinished)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
