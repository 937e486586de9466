"""The paired differences to the base prompt by prompt: which prompts gain, which pay, and how wide they spread."""

import json
from html import escape
from typing import Any

import numpy as np

from rdt.report.compare import Comparison, Group
from rdt.report.text import short
from rdt.text import folded

MOST = 200  # settings of a comparison whose differences a page holds


def by_prompt(comparison: Comparison) -> dict[str, Any]:
    """Return the prompts and, by group and score, the difference to the base at each of them, mean over seeds."""
    prompts = comparison.groups[0].runs[0].result.base.prompts
    found = {group.name: _differences(group, comparison.score_names) for group in comparison.groups[:MOST]}
    return {
        "prompts": [folded(prompt) for prompt in prompts],
        "rows": {name: own for name, own in found.items() if own},
    }


def by_prompt_html(comparison: Comparison, name: str) -> str:
    """Return the controls and the data of the view by prompt; empty if no score has values by prompt."""
    found = by_prompt(comparison)
    if not found["rows"]:
        return ""
    data = json.dumps(found).replace("<", "\\u003c")
    return (
        f'<div class="chart prompts" data-prompts="{escape(name)}"><div class="bar">'
        '<label>setting <select data-of="setting"></select></label>'
        '<label>score <select data-of="score"></select></label>'
        f'</div><div class="forest"></div><script type="application/json">{data}</script></div>'
    )


def _differences(group: Group, names: list[str]) -> dict[str, list[float]]:
    """Return the differences (P,) by score, for the scores that every seed and its base have at every prompt."""
    found = {}
    for name in names:
        pairs = [(p.per_prompt.get(name, []), run.result.base.per_prompt.get(name, [])) for p, run in _members(group)]
        if pairs[0][0] and len({len(row) for pair in pairs for row in pair}) == 1:
            mean = np.mean([np.subtract(tuned, base) for tuned, base in pairs], axis=0)
            found[short(name)] = [float(f"{value:.4g}") for value in mean]
    return found


def _members(group: Group) -> Any:
    return zip(group.points, group.runs, strict=True)
