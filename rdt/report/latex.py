"""front.tex: the scores as a table that a paper can input; needs the booktabs package."""

from rdt.report.fronts import Comparison
from rdt.report.table import columns
from rdt.report.text import number, short
from rdt.result import Score

SPECIAL = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


def front_tex(comparisons: list[Comparison]) -> str:
    """A tabular per comparison; value and paired difference to the base, each with half its 95 % interval."""
    return "\n".join(_tabular(comparison) for comparison in comparisons)


def _tabular(comparison: Comparison) -> str:
    names = columns(comparison)
    rows = [["", *(escape(short(name)) for name in names)], ["base", *(_cell(comparison.base.get(n)) for n in names)]]
    for group in comparison.groups:
        seeds = f" ({len(group.runs)} seeds)" if len(group.runs) > 1 else ""
        rows.append([escape(group.name) + seeds, *(_cell(group.scores.get(name)) for name in names)])
    head, *body = [" & ".join(row) + r" \\" for row in rows]
    about = f"% {comparison.model}: {comparison.n_prompts} held-out prompts x {comparison.n_per_prompt} images"
    frame = [rf"\begin{{tabular}}{{l{'r' * len(names)}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule"]
    return "\n".join([about, *frame, r"\end{tabular}", ""])


def escape(words: str) -> str:
    """Text that LaTeX prints as it is."""
    return "".join(SPECIAL.get(c, c) for c in words)


def _cell(score: Score | None) -> str:
    if score is None:
        return "--"
    change = (
        "" if score.diff in (None, score.value) else f" ({_spread(score.diff.mean, score.diff.hi - score.diff.lo)})"
    )
    return _spread(score.value.mean, score.value.hi - score.value.lo, signed=False) + change


def _spread(mean: float, width: float, signed: bool = True) -> str:
    sign = "+" if signed and mean >= 0 else ""
    half = f" \\pm {number(width / 2)}" if width else ""
    return f"${sign}{number(mean)}{half}$"
