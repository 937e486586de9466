"""Writes the report over a set of runs: report.html, the front as PNG, SVG, CSV and LaTeX, and duels.csv."""

from pathlib import Path

from rich.console import Console
from rich.style import Style
from rich.text import Text

from rdt.files import replacing, write_text
from rdt.report import figure
from rdt.report.board import log_pareto
from rdt.report.compare import Comparison, compare
from rdt.report.duels import duels_csv
from rdt.report.grids import grids_of
from rdt.report.page import GRIDS, report_html
from rdt.report.read import Failure, read_runs
from rdt.report.tables import front_csv, front_tex
from rdt.report.terminal import print_line, print_tables
from rdt.text import printable

PICTURED = 6  # sample grids in front.png


def report(run_dirs: list[Path], out: Path, wandb: bool = False, absolute: bool = False, name: str = "") -> Path:
    """Write the report over all runs at or below `run_dirs` into `out` and return the path of its report.html.

    The picture and the LaTeX table hold paired differences to the base, or the scores themselves if `absolute`.
    With a `name` one line is printed under it in place of the tables.

    Folders without a usable result are listed as failed. ValueError if no run is left, OSError if `out` cannot be
    written, UsageError if W&B refuses, after all files are written.
    """
    runs, failures = read_runs([Path(folder) for folder in run_dirs])
    if not runs:
        raise ValueError(_no_run(run_dirs, failures))
    comparisons, out = compare(runs), Path(out)
    out.mkdir(parents=True, exist_ok=True)
    _draw(comparisons, out, absolute)
    _write_texts(comparisons, failures, out, absolute)
    if name:
        print_line(name, comparisons)
    else:
        print_tables(comparisons, failures)
        _print_paths(out)
    if wandb:
        log_pareto(comparisons, out)
    return out / "report.html"


def _print_paths(out: Path) -> None:
    """Print where the files are; in a terminal they are links."""
    console = Console(highlight=False, soft_wrap=True)
    for what, file in {"report": "report.html", "picture": "front.png", "table": "front.csv"}.items():
        link = Style(link=(out / file).resolve().as_uri())
        console.print(Text.assemble(f"{what:8} ", (printable(out / file), link)))


def _draw(comparisons: list[Comparison], out: Path, absolute: bool) -> None:
    """Write front.png with samples, and front.svg."""
    grids = grids_of(comparisons[0], GRIDS)
    with replacing(out / "front.png") as path:
        more = max(0, len(grids) - PICTURED)
        figure.draw(comparisons, grids[:PICTURED], path, absolute=absolute, left_out=more)
    with replacing(out / "front.svg") as path:
        figure.draw(comparisons, [], path, "svg", absolute)


def _write_texts(comparisons: list[Comparison], failures: list[Failure], out: Path, absolute: bool) -> None:
    """Write the tables and the page; duels.csv only if there are two methods to compare."""
    write_text(out / "front.csv", front_csv(comparisons))
    write_text(out / "front.tex", front_tex(comparisons, absolute))
    write_text(out / "report.html", report_html(comparisons, failures))
    if any(len(comparison.methods) > 1 for comparison in comparisons):
        write_text(out / "duels.csv", duels_csv(comparisons))


def _no_run(run_dirs: list[Path], failures: list[Failure]) -> str:
    """Return the error line of a report without runs."""
    where = ", ".join(map(str, run_dirs[:2])) + " ..." * (len(run_dirs) > 2)
    if not failures:
        return f"no runs in {where}: want folders that hold a result.json"
    more = f" (and {len(failures) - 1} more)" * (len(failures) > 1)
    return f"no usable run in {where}: {failures[0].path}: {failures[0].reason}{more}"
