"""What the tables of the report show: rows of points, and one list of columns that every table prints from.

A new column is one entry in `measured_columns`. Unless it names other tables, it appears in all of TABLES.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from rdt.pareto import Interval
from rdt.report.compare import Comparison, Group
from rdt.report.hacking import GAP
from rdt.report.read import Run
from rdt.report.text import number, short
from rdt.result import Point, Score

# report.html has three: its table of scores, the cards above it and the axes of its scatter.
TABLES = frozenset({"page", "page cards", "page scatter", "terminal", "front.tex", "front.csv", "wandb", "model card"})


@dataclass(frozen=True)
class TableRow:
    """One line of a table: a base model, a group over its seeds, or one point of one run."""

    kind: str  # "base", "group" or "point"
    group: Group | None  # None for a base model
    runs: tuple[Run, ...]
    points: tuple[Point, ...]  # one per run
    scores: dict[str, Score]


@dataclass(frozen=True)
class Column:
    """A quantity that tables show, and how to get its value in a row."""

    name: str  # as files call it, such as "reward/hps"
    value: Callable[[TableRow], Score | None]  # with its interval and its paired difference to the base, if any
    tables: frozenset[str] = TABLES
    better: int = 0  # 1 if more of it is better, -1 if less is, 0 if neither
    form: Callable[[float], str] = number  # how people read it
    spread: bool = True  # whether it is measured with an interval

    @property
    def title(self) -> str:
        """Return the head of the column."""
        return short(self.name)

    @property
    def arrow(self) -> str:
        """Return an arrow that tells which side is better; empty if neither is."""
        return {1: "↑", -1: "↓"}.get(self.better, "")

    def verdict(self, score: Score) -> str:
        """Return "up" or "down", "even" if the paired interval holds 0, or "cost" if more of it is not better."""
        if score.diff is None or score.diff.lo <= 0 <= score.diff.hi:
            return "even"
        if self.better != 1:
            return "cost"
        return "up" if score.diff.mean > 0 else "down"


def measured_columns(comparison: Comparison) -> list[Column]:
    """Return the columns of all tables, in their order."""
    scores = [_score_column(comparison, name) for name in comparison.score_names]
    drawn = sum(column.name in (*comparison.rewards, comparison.diversity) for column in scores)
    kept = Column("kept", partial(_kept, comparison), frozenset({"page cards"}), 1, "{:.0%}".format, spread=False)
    scatter, recorded = frozenset({"page scatter"}), frozenset({"page scatter", "front.csv"})
    return [
        *scores[:drawn],
        kept,
        *scores[drawn:],
        Column("passes", partial(_cost, _passes), scatter, -1, spread=False),
        Column("TFLOP", partial(_cost, partial(_recorded, "tflop")), scatter, -1, spread=False),
        Column("seconds", partial(_cost, partial(_recorded, "seconds")), recorded, -1, spread=False),
    ]


def columns_of(comparison: Comparison, table: str) -> list[Column]:
    """Return the columns that one of TABLES shows."""
    return [column for column in measured_columns(comparison) if table in column.tables]


def plain(value: float) -> Score:
    """Return a value that has no interval as a score."""
    return Score(Interval(value, value, value))


def change(score: Score) -> Interval | None:
    """Return the paired difference, None if there is none or the base is 0, so that it repeats the value."""
    return None if score.diff == score.value else score.diff


def base_row(comparison: Comparison) -> TableRow:
    """Return the row of the base model over all runs."""
    points = tuple(run.result.base for run in comparison.runs)
    return TableRow("base", None, comparison.runs, points, comparison.base)


def group_row(group: Group) -> TableRow:
    """Return the row of a group over its seeds."""
    return TableRow("group", group, group.runs, group.points, group.scores)


def point_rows(group: Group) -> list[TableRow]:
    """Return a row for each seed of a group."""
    pairs = zip(group.runs, group.points, strict=True)
    return [TableRow("point", group, (run,), (point,), point.scores) for run, point in pairs]


def summary_rows(comparison: Comparison) -> list[TableRow]:
    """Return the base's row and every group's; the rows of its seeds follow a group that has several."""
    rows = [base_row(comparison)]
    for group in comparison.groups:
        rows += [group_row(group), *(point_rows(group) if len(group.points) > 1 else [])]
    return rows


def run_rows(comparison: Comparison) -> list[TableRow]:
    """Return the rows of every run: its base, then its points."""
    rows = {id(row.points[0]): row for group in comparison.groups for row in point_rows(group)}
    found = []
    for run in comparison.runs:
        base = run.result.base
        found.append(TableRow("base", None, (run,), (base,), base.scores))
        found += [rows[id(point)] for point in run.result.points if id(point) in rows]  # not those of a repeat
    return found


def _score_column(comparison: Comparison, name: str) -> Column:
    """Return the column of a recorded score; short tables hold what is drawn, the KL and the gap."""
    kind, drawn = name.partition("/")[0], name in (*comparison.rewards, comparison.diversity)
    better = {"reward": 1, "diversity": 1, "kl_nats": -1, GAP: -1}.get(kind, 0)
    tables = TABLES if drawn or name in ("kl_nats", GAP) else TABLES - {"terminal", "page cards", "front.tex"}
    return Column(name, lambda row: row.scores.get(name), tables, better)


def _kept(comparison: Comparison, row: TableRow) -> Score | None:
    """Return the share of the base's diversity that is left."""
    own, base = row.scores.get(comparison.diversity), comparison.base.get(comparison.diversity)
    return plain(own.value.mean / base.value.mean) if own and base and base.value.mean > 0 else None


def _cost(of: Callable[[Run], float | None], row: TableRow) -> Score | None:
    """Return what training cost, averaged over the runs of a row if all recorded it; the base cost nothing."""
    costs = [cost for run in row.runs if (cost := of(run)) is not None and np.isfinite(cost)]
    if row.group is None:
        return plain(0.0) if costs else None
    return plain(float(np.mean(costs))) if len(costs) == len(row.runs) else None


def _recorded(name: str, run: Run) -> float | None:
    return run.result.compute.get(name)


def _passes(run: Run) -> float | None:
    """Return the passes through the network, forward and backward."""
    forward, backward = (run.result.compute.get(f"{way}_passes") for way in ("network", "backward"))
    return None if forward is None else forward + (backward or 0)
