"""Write the tables and figures of the runs that run.py made: `python experiments/three_papers/table.py <runs> <out>`.

Everything is paired: both sides of a difference have the same prompts, noise and seeds, and one bootstrap over seeds
and prompts gives all intervals.
"""

import csv
import json
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib import pyplot as plt
from omegaconf import OmegaConf

from rdt.pareto import Draws, Interval, hypervolume, hypervolume_under, interval, matched_difference

HERE = Path(__file__).resolve().parent
PROXY, GOLD, ENTROPY, VENDI = "reward/hps", "reward/gold", "diversity/entropy", "diversity/vendi"
SHOWN = (PROXY, GOLD, "reward/judge", ENTROPY, VENDI, "fidelity/residual")


@dataclass(frozen=True)
class Variant:
    """Holds the results of one variant's finished runs, one per seed."""

    name: str
    results: list[dict]

    @cached_property
    def tuned(self) -> dict:
        """Return {metric: (seeds, prompts)} of the tuned model under the run's guidance."""
        return self._scores([result["points"][0] for result in self.results])

    @cached_property
    def base(self) -> dict:
        """Return {metric: (seeds, prompts)} of the untuned model."""
        return self._scores([result["base"] for result in self.results])

    def points_under(self, *labels: str) -> list[dict]:
        """Return the scores of the base, the tuned model and the points whose label starts with one of `labels`."""
        names = [p["label"] for p in self.results[0]["points"][1:] if p["label"].startswith(labels)]
        return [self.base, self.tuned, *(self._scores([self._point(r, name) for r in self.results]) for name in names)]

    @property
    def passes(self) -> float:
        """Return the mean number of network passes of a run, backward passes included."""
        spent = [r["compute"]["network_passes"] + r["compute"]["backward_passes"] for r in self.results]
        return sum(spent) / len(spent)

    @staticmethod
    def _point(result: dict, label: str) -> dict:
        return next(point for point in result["points"] if point["label"] == label)

    @staticmethod
    def _scores(points: list[dict]) -> dict:
        return {name: np.array([p["per_prompt"][name] for p in points]) for name in SHOWN}


class Setting:
    """Holds what all comparisons share: one set of resamples, the limit and the base's rewards."""

    def __init__(self, runs: Path, seeds: list[int]) -> None:
        self.runs, self.seeds = runs, seeds
        example = max(runs.glob("*/result.json"), key=lambda file: file.stat().st_mtime)
        self.limit = json.loads(example.read_text())["limit"]
        base = json.loads(example.read_text())["base"]["per_prompt"]
        self.start = {name: float(np.mean(base[name])) for name in (PROXY, GOLD)}
        self.draws = Draws(len(seeds), len(base[PROXY]), seed=0, resamples=1000)

    def variant(self, name: str) -> Variant | None:
        """Return a variant's results, or None if one of its runs is missing or unfinished."""
        files = [self.runs / f"{name}-s{seed}" / "result.json" for seed in self.seeds]
        complete = all(file.exists() and (file.parent / "done").exists() for file in files)
        return Variant(name, [json.loads(file.read_text()) for file in files]) if complete else None

    def difference(self, ours: np.ndarray, theirs: np.ndarray) -> Interval:
        """Return the difference of the means of two arrays (seeds, prompts), with its interval."""
        return interval(float((ours - theirs).mean()), self.draws.means(ours - theirs))

    def front(self, points: list[dict], reward: str, diversity: str = ENTROPY) -> np.ndarray:
        """Return the points' mean (reward, diversity), (1 + resamples, N, 2): of all data first, then of each resample.

        A resample with easier or harder prompts shifts all rewards. The shift is removed: every front starts at the
        reward that the base, the first of the points, has in all data.
        """
        planes = [
            np.stack([np.concatenate([[p[name].mean()], self.draws.means(p[name])]) for name in (reward, diversity)])
            for p in points
        ]
        front = np.stack(planes).transpose(2, 0, 1)
        front[..., 0] -= front[:, :1, 0] - front[0, 0, 0]
        return front

    def share(self, front: np.ndarray, reward: str) -> np.ndarray:
        """Return shares (1 + resamples,) of the limit's hypervolume above the base's reward and diversity 0."""
        limit = self.curve(reward)
        at = np.interp(self.start[reward], *limit.T)
        above = np.concatenate([[[self.start[reward], at]], limit[limit[:, 0] > self.start[reward]]])
        corner = (self.start[reward], 0.0)
        whole = hypervolume_under(above, corner) or float("nan")
        return np.array([hypervolume(points, corner) / whole for points in front])

    def curve(self, reward: str) -> np.ndarray:
        """Return the limit (M, 2) as a run with finitely many samples would estimate it."""
        short = reward.partition("/")[2]
        rows = self.limit["frontier" if short == self.limit["reward"] else "proxy_frontier"]
        return np.array(sorted((row[short], row["entropy_sampled"]) for row in rows))


def formatted(found: np.ndarray | Interval, digits: int = 3) -> str:
    """Return a value and its interval as text; an array holds the value and then its resamples."""
    one = found if isinstance(found, Interval) else interval(float(found[0]), found[1:])
    if not np.isfinite(one.mean):
        return "no common range"
    return f"{one.mean:+.{digits}f} [{one.lo:+.{digits}f}, {one.hi:+.{digits}f}]"


def final_rows(setting: Setting, variants: list[Variant], against: Variant | None = None) -> list[str]:
    """Return a table of each variant's differences from the base, or from another variant."""
    rows = ["| | proxy | gold | judge | entropy | Vendi | residual | passes |", "|" + "---|" * 8]
    for one in variants:
        other = against.tuned if against else one.base
        cells = [formatted(setting.difference(one.tuned[name], other[name]), digits=4) for name in SHOWN]
        rows.append(f"| {one.name} | {' | '.join(cells)} | {one.passes:,.0f} |")
    return rows


def front_rows(setting: Setting, fronts: dict[str, list[dict]], ours: str) -> list[str]:
    """Return a table of the fronts' hypervolume shares, and of `ours` against each at matched levels."""
    head = ["front", "reward", "share of the limit's hypervolume", f"{ours} minus this", f"P({ours} is larger)"]
    head += ["entropy at equal reward", "Vendi at equal reward", "reward at equal entropy"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for reward in (PROXY, GOLD):
        shares = {name: setting.share(setting.front(points, reward), reward) for name, points in fronts.items()}
        for name, points in fronts.items():
            cells = [name, reward.partition("/")[2], formatted(shares[name])] + [""] * 5
            if name != ours:
                gain = shares[ours] - shares[name]
                cells[3:] = [
                    formatted(gain),
                    f"{(gain[1:] > 0).mean():.2f}",
                    *matched(setting, fronts[ours], points, reward),
                ]
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def left_out(setting: Setting, fronts: dict[str, list[dict]]) -> list[str]:
    """Return lines that count the resamples in which a point has a diversity of 0 or less, so no relative gain."""
    lines = []
    for name, points in fronts.items():
        for diversity in (ENTROPY, VENDI):
            lost = int((setting.front(points, PROXY, diversity)[..., 1] <= 0).any(1).sum())
            short = diversity.partition("/")[2]
            lines += [f"{name}: {lost} of {setting.draws.runs.shape[0]} resamples reach {short} 0."] if lost else []
    return ["", "Resamples left out of the relative gains:", "", *lines] if lines else []


def matched(setting: Setting, ours: list[dict], theirs: list[dict], reward: str) -> list[str]:
    """Return the relative gains in entropy and Vendi at equal reward and the gain in reward at equal entropy.

    Fronts are compared over their common range only.
    """
    cells = []
    for diversity in (ENTROPY, VENDI):
        pairs = zip(setting.front(ours, reward, diversity), setting.front(theirs, reward, diversity), strict=True)
        logs = np.array([_relative(a, b) for a, b in pairs])
        cells.append(formatted(100 * np.expm1(logs), digits=1).replace("]", "] %"))
    pairs = zip(setting.front(ours, reward), setting.front(theirs, reward), strict=True)
    return [*cells, formatted(np.array([matched_difference(a[:, ::-1], b[:, ::-1]) for a, b in pairs]), digits=4)]


def _relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the difference in log diversity at equal reward; nan if a resample has a diversity of 0 or less."""
    if min(ours[:, 1].min(), theirs[:, 1].min()) <= 0:
        return float("nan")
    return matched_difference(_log(ours), _log(theirs))


def _log(front: np.ndarray) -> np.ndarray:
    return np.stack([front[:, 0], np.log(front[:, 1])], axis=1)


def picture(setting: Setting, fronts: dict[str, list[dict]], file: Path) -> None:
    """Draw the limit and every front in both rewards; error bars are of differences from the base."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), constrained_layout=True)
    for axis, reward in zip(axes, (PROXY, GOLD), strict=True):
        limit = setting.curve(reward)
        axis.plot(limit[:, 1], limit[:, 0], color="black", lw=1, label="limit")
        reached = []
        for name, points in fronts.items():
            plane = setting.front(points, reward)
            plane[..., 1] -= plane[:, :1, 1] - plane[0, 0, 1]
            plane = plane[:, np.argsort(plane[0, :, 1])]
            lo, hi = np.percentile(plane[1:], [2.5, 97.5], axis=0)
            mean = plane[0]
            reached.append(mean)
            bars = {"yerr": _bars(mean, lo, hi, 0), "xerr": _bars(mean, lo, hi, 1)}
            axis.errorbar(mean[:, 1], mean[:, 0], **bars, marker="o", ms=4, lw=1.2, elinewidth=0.4, label=name)
        axis.set(xlabel="normalised entropy of what prompts leave free", ylabel=reward.partition("/")[2])
        least = np.concatenate(reached).min(0)
        axis.set_xlim(least[1] - 0.02, limit[:, 1].max() + 0.01)  # error bars may reach further
        axis.set_ylim(least[0] - 0.02, limit[limit[:, 1] > axis.get_xlim()[0], 0].max() + 0.01)
    figure.legend(*axes[0].get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside right center")
    figure.savefig(file, dpi=150)
    plt.close(figure)


def _bars(mean: np.ndarray, lo: np.ndarray, hi: np.ndarray, axis: int) -> np.ndarray:
    return np.clip(np.stack([mean[:, axis] - lo[:, axis], hi[:, axis] - mean[:, axis]]), 0, None)


def answers(setting: Setting, variants: dict[str, Variant]) -> dict[str, tuple[list[str], dict[str, list[dict]]]]:
    """Return the lines of the table and the fronts of the figure by question; print the questions that lack runs."""
    found = {}
    for question, spec in OmegaConf.load(HERE / "questions.yaml").items():
        missing = [name for name in spec.variants if name not in variants]
        if spec.ours in missing:
            print(f"({question}) needs the runs of {spec.ours}")
            continue
        chosen = [variants[name] for name in spec.variants if name in variants]
        fronts = {name: _front(one, variants) for name, one in spec.fronts.items() if _known(one, variants)}
        lines = [f"Not run yet: {', '.join(missing)}.", ""] if missing else []
        lines += [
            "Each variant after training, as paired differences from the base:",
            "",
            *final_rows(setting, chosen),
            "",
        ]
        ours = variants[spec.ours]
        if spec.minus_ours:
            others = [one for one in chosen if one is not ours]
            lines += [f"Each variant minus {ours.name}:", "", *final_rows(setting, others, ours), ""]
        lines += [f"{spec.ours_front} against the other fronts:", "", *front_rows(setting, fronts, spec.ours_front)]
        lines += left_out(setting, fronts)
        found[question] = (lines, fronts)
    return found


def _known(spec: dict, variants: dict[str, Variant]) -> bool:
    return all(name in variants for name in spec.get("runs", [spec.get("of")]))


def _front(spec: dict, variants: dict[str, Variant]) -> list[dict]:
    """Return a front through the base and several runs, or through one run's points under a guidance."""
    if "runs" in spec:
        runs = [variants[name] for name in spec["runs"]]
        return [runs[0].base, *(run.tuned for run in runs)]
    return variants[spec["of"]].points_under(spec["under"])


def rows(variants: dict[str, Variant]) -> list[dict]:
    """Return the rows of results.csv, one per run, point and metric."""
    return [
        {"variant": name, "seed": result["seed"], "point": point["label"], "metric": metric, "mean": np.mean(values)}
        for name, variant in variants.items()
        for result in variant.results
        for point in (result["base"] | {"label": "base"}, *result["points"])
        for metric, values in point["per_prompt"].items()
    ]


def main(runs: Path, out: Path) -> None:
    """Write results.csv, and <question>.md and <question>.png for each question whose main runs are complete."""
    plan = OmegaConf.load(HERE / "variants.yaml")
    setting = Setting(runs, list(plan.seeds))
    variants = {name: one for name in plan.variants if (one := setting.variant(name))}
    with (out / "results.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["variant", "seed", "point", "metric", "mean"])
        writer.writeheader()
        writer.writerows(row | {"mean": f"{row['mean']:.6g}"} for row in rows(variants))
    for question, (lines, fronts) in answers(setting, variants).items():
        (out / f"{question}.md").write_text("\n".join(lines) + "\n")
        picture(setting, fronts, out / f"{question}.png")
        print(f"({question})", *lines, sep="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
