"""Tables and figures of the runs that run.py made: `python experiments/three_papers/table.py <runs> <out>`.

Everything is paired: the same prompts, noise and seeds stand behind both sides of a difference, and one bootstrap over
seeds and prompts behind all intervals.
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
    """The finished runs of one variant, a seed each."""

    name: str
    results: list[dict]

    @cached_property
    def tuned(self) -> dict:
        """{metric: (seeds, prompts)} of the run's own guidance."""
        return self._scores([result["points"][0] for result in self.results])

    @cached_property
    def base(self) -> dict:
        """{metric: (seeds, prompts)} of the untuned model."""
        return self._scores([result["base"] for result in self.results])

    def knob(self, *labels: str) -> list[dict]:
        """Base, tuned, and the points whose label starts so: what one knob reaches from this variant."""
        names = [p["label"] for p in self.results[0]["points"][1:] if p["label"].startswith(labels)]
        return [self.base, self.tuned, *(self._scores([self._point(r, name) for r in self.results]) for name in names)]

    @property
    def passes(self) -> float:
        """Mean counted passes of a run, gradients included."""
        spent = [r["compute"]["network_passes"] + r["compute"]["backward_passes"] for r in self.results]
        return sum(spent) / len(spent)

    @staticmethod
    def _point(result: dict, label: str) -> dict:
        return next(point for point in result["points"] if point["label"] == label)

    @staticmethod
    def _scores(points: list[dict]) -> dict:
        return {name: np.array([p["per_prompt"][name] for p in points]) for name in SHOWN}


class Study:
    """What is asked of the variants: one set of resamples, one limit, one reference point."""

    def __init__(self, runs: Path, seeds: list[int]) -> None:
        self.runs, self.seeds = runs, seeds
        example = max(runs.glob("*/result.json"), key=lambda file: file.stat().st_mtime)
        self.limit = json.loads(example.read_text())["limit"]
        base = json.loads(example.read_text())["base"]["per_prompt"]
        self.start = {name: float(np.mean(base[name])) for name in (PROXY, GOLD)}
        self.draws = Draws(len(seeds), len(base[PROXY]), seed=0, resamples=1000)

    def variant(self, name: str) -> Variant | None:
        """None while runs are missing."""
        files = [self.runs / f"{name}-s{seed}" / "result.json" for seed in self.seeds]
        complete = all(file.exists() and (file.parent / "done").exists() for file in files)
        return Variant(name, [json.loads(file.read_text()) for file in files]) if complete else None

    def difference(self, ours: np.ndarray, theirs: np.ndarray) -> Interval:
        """Of the means of two (seeds, prompts)."""
        return interval(float((ours - theirs).mean()), self.draws.means(ours - theirs))

    def front(self, points: list[dict], reward: str, diversity: str = ENTROPY) -> np.ndarray:
        """(1 + resamples, N, 2): the points' means, first of everything, then of each resample.

        What hard or easy prompts a resample has is taken out: its rewards are moved to where the base, the first of the
        points, has its own.
        """
        planes = [
            np.stack([np.concatenate([[p[name].mean()], self.draws.means(p[name])]) for name in (reward, diversity)])
            for p in points
        ]
        front = np.stack(planes).transpose(2, 0, 1)
        front[..., 0] -= front[:, :1, 0] - front[0, 0, 0]
        return front

    def share(self, front: np.ndarray, reward: str) -> np.ndarray:
        """(1 + resamples,) shares of the limit's hypervolume above the base's reward and no diversity."""
        limit = self.curve(reward)
        at = np.interp(self.start[reward], *limit.T)
        above = np.concatenate([[[self.start[reward], at]], limit[limit[:, 0] > self.start[reward]]])
        corner = (self.start[reward], 0.0)
        whole = hypervolume_under(above, corner) or float("nan")
        return np.array([hypervolume(points, corner) / whole for points in front])

    def curve(self, reward: str) -> np.ndarray:
        """(M, 2) of the limit as a finite sample of a run would read it."""
        short = reward.partition("/")[2]
        rows = self.limit["frontier" if short == self.limit["reward"] else "proxy_frontier"]
        return np.array(sorted((row[short], row["entropy_sampled"]) for row in rows))


def said(found: np.ndarray | Interval, digits: int = 3) -> str:
    """A value and its interval."""
    one = found if isinstance(found, Interval) else interval(float(found[0]), found[1:])
    if not np.isfinite(one.mean):
        return "no common range"
    return f"{one.mean:+.{digits}f} [{one.lo:+.{digits}f}, {one.hi:+.{digits}f}]"


def ends(study: Study, variants: list[Variant], against: Variant | None = None) -> list[str]:
    """Where each variant ends: differences to the base, or to another variant."""
    rows = ["| | proxy | gold | judge | entropy | Vendi | residual | passes |", "|" + "---|" * 8]
    for one in variants:
        other = against.tuned if against else one.base
        cells = [said(study.difference(one.tuned[name], other[name]), digits=4) for name in SHOWN]
        rows.append(f"| {one.name} | {' | '.join(cells)} | {one.passes:,.0f} |")
    return rows


def knobs(study: Study, fronts: dict[str, list[dict]], ours: str) -> list[str]:
    """Hypervolume shares of the fronts, and how `ours` compares with each at matched levels, in both rewards."""
    head = ["front", "reward", "share of the limit's hypervolume", "ours minus this", "P(ours is larger)",
            "entropy at equal reward", "Vendi at equal reward", "reward at equal entropy"]  # fmt: skip
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for reward in (PROXY, GOLD):
        shares = {name: study.share(study.front(points, reward), reward) for name, points in fronts.items()}
        for name, points in fronts.items():
            cells = [name, reward.partition("/")[2], said(shares[name])] + [""] * 5
            if name != ours:
                gain = shares[ours] - shares[name]
                cells[3:] = [said(gain), f"{(gain[1:] > 0).mean():.2f}", *matched(study, fronts[ours], points, reward)]
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def left_out(study: Study, fronts: dict[str, list[dict]]) -> list[str]:
    """How many resamples take a point of a front to a diversity that has no logarithm."""
    lines = []
    for name, points in fronts.items():
        for diversity in (ENTROPY, VENDI):
            lost = int((study.front(points, PROXY, diversity)[..., 1] <= 0).any(1).sum())
            short = diversity.partition("/")[2]
            lines += [f"{name}: {lost} of {study.draws.runs.shape[0]} resamples reach {short} 0."] if lost else []
    return ["", "Left out of relative gains:", "", *lines] if lines else []


def matched(study: Study, ours: list[dict], theirs: list[dict], reward: str) -> list[str]:
    """Relative gains in entropy and Vendi at equal reward, and the reward gained at equal entropy; no extrapolation."""
    cells = []
    for diversity in (ENTROPY, VENDI):
        pairs = zip(study.front(ours, reward, diversity), study.front(theirs, reward, diversity), strict=True)
        logs = np.array([_relative(a, b) for a, b in pairs])
        cells.append(said(100 * np.expm1(logs), digits=1).replace("]", "] %"))
    pairs = zip(study.front(ours, reward), study.front(theirs, reward), strict=True)
    return [*cells, said(np.array([matched_difference(a[:, ::-1], b[:, ::-1]) for a, b in pairs]), digits=4)]


def _relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    """In logarithms; nan in a resample, of three seeds they reach far, whose diversity is not above 0."""
    if min(ours[:, 1].min(), theirs[:, 1].min()) <= 0:
        return float("nan")
    return matched_difference(_log(ours), _log(theirs))


def _log(front: np.ndarray) -> np.ndarray:
    return np.stack([front[:, 0], np.log(front[:, 1])], axis=1)


def picture(study: Study, fronts: dict[str, list[dict]], file: Path) -> None:
    """Both planes: the limit, the base, each front through its points; bars are of differences to the base."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), constrained_layout=True)
    for axis, reward in zip(axes, (PROXY, GOLD), strict=True):
        limit = study.curve(reward)
        axis.plot(limit[:, 1], limit[:, 0], color="black", lw=1, label="limit")
        reached = []
        for name, points in fronts.items():
            plane = study.front(points, reward)
            plane[..., 1] -= plane[:, :1, 1] - plane[0, 0, 1]
            plane = plane[:, np.argsort(plane[0, :, 1])]
            lo, hi = np.percentile(plane[1:], [2.5, 97.5], axis=0)
            mean = plane[0]
            reached.append(mean)
            axis.errorbar(
                mean[:, 1], mean[:, 0], yerr=_bars(mean, lo, hi, 0), xerr=_bars(mean, lo, hi, 1),
                marker="o", ms=4, lw=1.2, elinewidth=0.4, label=name,
            )  # fmt: skip
        axis.set(xlabel="normalised entropy of what prompts leave free", ylabel=reward.partition("/")[2])
        least = np.concatenate(reached).min(0)
        axis.set_xlim(least[1] - 0.02, limit[:, 1].max() + 0.01)  # a bar may be longer
        axis.set_ylim(least[0] - 0.02, limit[limit[:, 1] > axis.get_xlim()[0], 0].max() + 0.01)
    figure.legend(*axes[0].get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside right center")
    figure.savefig(file, dpi=150)
    plt.close(figure)


def _bars(mean: np.ndarray, lo: np.ndarray, hi: np.ndarray, axis: int) -> np.ndarray:
    return np.clip(np.stack([mean[:, axis] - lo[:, axis], hi[:, axis] - mean[:, axis]]), 0, None)


def parts(study: Study, variants: dict[str, Variant]) -> dict[str, tuple[list[str], dict[str, list[dict]]]]:
    """Of each question: the table's lines, and the fronts of the figure; what is not there yet is said."""
    made = {}
    for part, asked in OmegaConf.load(HERE / "questions.yaml").items():
        missing = [name for name in asked.variants if name not in variants]
        if asked.ours in missing:
            print(f"({part}) waits for {asked.ours}")
            continue
        chosen = [variants[name] for name in asked.variants if name in variants]
        fronts = {name: _front(spec, variants) for name, spec in asked.fronts.items() if _known(spec, variants)}
        lines = [f"Not run yet: {', '.join(missing)}.", ""] if missing else []
        lines += ["Where each ends, as paired differences to the base:", "", *ends(study, chosen), ""]
        ours = variants[asked.ours]
        if asked.minus_ours:
            others = [one for one in chosen if one is not ours]
            lines += [f"Each minus {ours.name}:", "", *ends(study, others, ours), ""]
        lines += [f"Fronts, ours being {asked.ours_front}:", "", *knobs(study, fronts, asked.ours_front)]
        lines += left_out(study, fronts)
        made[part] = (lines, fronts)
    return made


def _known(spec: dict, variants: dict[str, Variant]) -> bool:
    return all(name in variants for name in spec.get("runs", [spec.get("of")]))


def _front(spec: dict, variants: dict[str, Variant]) -> list[dict]:
    """A front through several runs, or through one run's points under a guidance."""
    if "runs" in spec:
        runs = [variants[name] for name in spec["runs"]]
        return [runs[0].base, *(run.tuned for run in runs)]
    return variants[spec["of"]].knob(spec["under"])


def rows(variants: dict[str, Variant]) -> list[dict]:
    """results.csv: every point of every run."""
    return [
        {"variant": name, "seed": result["seed"], "point": point["label"], "metric": metric, "mean": np.mean(values)}
        for name, variant in variants.items()
        for result in variant.results
        for point in (result["base"] | {"label": "base"}, *result["points"])
        for metric, values in point["per_prompt"].items()
    ]


def main(runs: Path, out: Path) -> None:
    """Write results.csv, and <question>.md and <question>.png of each question whose runs are complete."""
    plan = OmegaConf.load(HERE / "variants.yaml")
    study = Study(runs, list(plan.seeds))
    variants = {name: one for name in plan.variants if (one := study.variant(name))}
    with (out / "results.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["variant", "seed", "point", "metric", "mean"])
        writer.writeheader()
        writer.writerows(row | {"mean": f"{row['mean']:.6g}"} for row in rows(variants))
    for part, (lines, fronts) in parts(study, variants).items():
        (out / f"{part}.md").write_text("\n".join(lines) + "\n")
        picture(study, fronts, out / f"{part}.png")
        print(f"({part})", *lines, sep="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
