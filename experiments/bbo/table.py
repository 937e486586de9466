"""Write results.csv, table.md and curve.png from the runs of reproduce.sh: `experiments/bbo/table.py <runs> <out>`.

Differences are paired: both sides have the same held-out prompts, noise and seeds.
"""

import csv
import json
import sys
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import numpy as np
import torch
from matplotlib import pyplot as plt

from rdt.pareto import Interval, bootstrap_mean

LABELS = {
    "bootstrap": "bootstrap, beta 1",
    "ucb": "ucb, beta 1",
    "greedy": "bootstrap, beta 0",
    "ucb_greedy": "ucb, beta 0",
    "offline": "bootstrap, beta 1, all calls at the start",
}
CONTROLS = {"bootstrap": "greedy", "ucb": "ucb_greedy", "offline": "bootstrap"}
METRICS = ("reward/gold", "reward/judge", "diversity/entropy", "fidelity/residual", "kl_nats")


@dataclass(frozen=True)
class Variant:
    """Holds the folders of one variant's finished runs, one per seed."""

    folders: list[Path]

    @cached_property
    def results(self) -> list[dict]:
        return [json.loads((folder / "result.json").read_text()) for folder in self.folders]

    def scores(self, metric: str) -> np.ndarray:
        """Return the scores (seeds, prompts) of the tuned policy."""
        return np.array([result["points"][0]["per_prompt"][metric] for result in self.results])

    def base(self, metric: str) -> np.ndarray:
        """Return the scores (seeds, prompts) of the untuned model."""
        return np.array([result["base"]["per_prompt"][metric] for result in self.results])

    @cached_property
    def rounds(self) -> list[np.ndarray]:
        """Return the oracle's scores of the policy's images, (seeds, calls), by round."""
        files = [sorted((folder / "checkpoints").glob("[0-9]*"))[-1] / "run.ckpt" for folder in self.folders]
        answers = [torch.load(file, weights_only=True, map_location="cpu")["answers"] for file in files]
        return [np.stack([of_round["scores"] for of_round in rounds]) for rounds in zip(*answers, strict=True)]

    @cached_property
    def curve(self) -> dict[int, Interval]:
        """Return the mean score of the policy's images by the number of calls that it has learned from."""
        spent = np.cumsum([0, *(of_round.shape[1] for of_round in self.rounds)]).tolist()
        return {n: bootstrap_mean(of_round, seed=0) for n, of_round in zip(spent, self.rounds, strict=False)}

    @cached_property
    def correlation(self) -> dict[int, float]:
        """Return the correlation of the surrogate with the next scores by the number of calls it has learned from."""
        return {
            n: float(np.mean([self._correlations(folder)[n] for folder in self.folders])) for n in list(self.curve)[1:]
        }

    @staticmethod
    def _correlations(folder: Path) -> dict[int, float]:
        with (folder / "metrics.csv").open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        pairs = pairwise(rows)
        steps = [(int(float(a["train/queries"])), b) for a, b in pairs if a["train/queries"] != b["train/queries"]]
        return {n: float(row["train/correlation"]) for n, row in steps}


def controls(variants: dict[str, Variant]) -> dict[str, str]:
    """Return the variant that each one is compared with, if both were run."""
    return {name: control for name, control in CONTROLS.items() if {name, control} <= variants.keys()}


def rows(variants: dict[str, Variant]) -> list[dict[str, object]]:
    """Return one row per variant, metric and comparison."""
    found = []
    for name, variant in variants.items():
        control = controls(variants).get(name)
        others = {"base": None} | ({control: variants[control]} if control else {})
        for metric in METRICS:
            for against, other in others.items():
                ours, theirs = variant.scores(metric), (other.scores(metric) if other else variant.base(metric))
                diff = bootstrap_mean(ours - theirs, seed=0)
                row = {"variant": name, "metric": metric, "against": against, "seeds": len(ours)}
                row |= {"prompts": ours.shape[1], "value": ours.mean(), "other": theirs.mean()}
                found.append(row | {"diff": diff.mean, "lo": diff.lo, "hi": diff.hi})
    return found


def formatted(row: dict) -> str:
    """Return a difference and its interval as text."""
    digits = 1 if row["metric"] == "kl_nats" else 4
    return f"{row['diff']:+.{digits}f} [{row['lo']:+.{digits}f}, {row['hi']:+.{digits}f}]"


def tables(variants: dict[str, Variant], found: list[dict]) -> str:
    """Return the tables of table.md."""
    at = {(row["variant"], row["metric"], row["against"]): row for row in found}
    lines = ["| difference from the base | " + " | ".join(METRICS) + " |", "|---" * (len(METRICS) + 1) + "|"]
    for name in variants:
        lines.append(
            f"| {LABELS[name]} | " + " | ".join(formatted(at[name, metric, "base"]) for metric in METRICS) + " |"
        )
    lines += ["", "| difference between two variants | reward/gold | diversity/entropy |", "|---|---|---|"]
    for name, control in controls(variants).items():
        pair = " | ".join(formatted(at[name, metric, control]) for metric in ("reward/gold", "diversity/entropy"))
        lines.append(f"| {LABELS[name]}, minus {LABELS[control]} | {pair} |")
    calls = sorted({n for variant in variants.values() for n in variant.curve})
    head = ["", f"| mean oracle score after learning from | {' | '.join(f'{n} calls' for n in calls)} |"]
    lines += [*head, "|---" * (len(calls) + 1) + "|"]
    for name, variant in variants.items():
        shown = {n: f"{one.mean:.4f} [{one.lo:.4f}, {one.hi:.4f}]" for n, one in variant.curve.items()}
        lines.append(f"| {LABELS[name]} | {' | '.join(shown.get(n, '') for n in calls)} |")
    lines += ["", f"| correlation with scores not yet learned from | {' | '.join(f'{n} calls' for n in calls[1:])} |"]
    lines.append("|---" * len(calls) + "|")
    for name, variant in variants.items():
        shown = {n: f"{value:.2f}" for n, value in variant.correlation.items()}
        lines.append(f"| {LABELS[name]} | {' | '.join(shown.get(n, '') for n in calls[1:])} |")
    return "\n".join(lines) + "\n"


def draw(variants: dict[str, Variant], file: Path) -> None:
    """Draw the oracle's mean score of the policy's images against the number of calls learned from."""
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for k, (name, variant) in enumerate(variants.items()):
        calls, means = zip(*variant.curve.items(), strict=True)
        at, style = np.array(calls) + 4 * (k - 2), "--" if name in ("greedy", "ucb_greedy") else "-"
        bars = [[one.mean - one.lo for one in means], [one.hi - one.mean for one in means]]
        axes.errorbar(at, [one.mean for one in means], bars, ls=style, marker="o", ms=4, capsize=2, label=LABELS[name])
    axes.set(xlabel="oracle calls learned from", ylabel="oracle's mean score of the policy's images")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(file, dpi=150)


def main(runs: Path, out: Path) -> None:
    """Write results.csv, table.md and curve.png, and print the tables."""
    folders = {name: sorted(file.parent for file in runs.glob(f"{name}-s*/result.json")) for name in LABELS}
    variants = {name: Variant(found) for name, found in folders.items() if found}
    found = rows(variants)
    with (out / "results.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(found[0]))
        writer.writeheader()
        writer.writerows({k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()} for row in found)
    text = tables(variants, found)
    (out / "table.md").write_text(text)
    draw(variants, out / "curve.png")
    print(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
