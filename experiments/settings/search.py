"""Try the values of spaces.yaml and write log.csv and table.md: `python experiments/settings/search.py [model ...]`.

Every run trains and is measured on training prompts alone. The values that are chosen for a method are those that gain
the largest share of the hypervolume below the proxy's exact limit and above the base's reward, with the base's point.
Start it again after an interruption: finished runs are kept.
"""

import argparse
import csv
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from omegaconf import DictConfig, OmegaConf

from rdt.pareto import hypervolume, hypervolume_under
from rdt.result import Result, read

HERE = Path(__file__).resolve().parent
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}  # networks this small do not gain from threads
PROXY, GOLD, ENTROPY = "reward/hps", "reward/gold", "diversity/entropy"


@dataclass(frozen=True)
class Trial:
    """Holds one combination of values of a method on a model."""

    model: str
    method: str
    values: dict[str, float]
    command: list[str]
    folder: Path

    def run(self) -> str:
        """Run it unless it is finished, and return a line on how it ended."""
        if not (self.folder / "result.json").exists():
            with self.folder.with_suffix(".log").open("w") as stream:
                command = [sys.executable, "-m", "rdt.run", *self.command, f"output_dir={self.folder}"]
                code = subprocess.run(command, stdout=stream, stderr=stream, env=os.environ | ONE_THREAD).returncode
            return f"{self.folder.name}: {'FAILED' if code else 'done'}"
        return f"{self.folder.name}: found"


def trials(plan: DictConfig, models: list[str], methods: list[str], folder: Path) -> Iterator[Trial]:
    """Yield every combination of values of every method on every model."""
    for model, name in itertools.product(models, methods):
        space, common = plan.methods[name], [*plan.common, f"model={model}", f"method={name}"]
        for chosen in itertools.product(*space.over.values()):
            values = dict(zip(space.over, chosen, strict=True))
            settings = [f"{key}={value}" for key, value in values.items()]
            budget = f"max_passes={plan.budgets[space.budget]}"
            where = folder / "-".join([model, name, *(setting.rpartition(".")[2] for setting in settings)])
            yield Trial(model, name, values, [*common, budget, *settings], where)


def row(trial: Trial) -> dict[str, object]:
    """Return what a finished trial gained."""
    result = read(trial.folder)
    base, tuned = result.base.means(), result.tuned.means()
    gain = {f"{name}_gain": tuned[key] - base[key] for name, key in (("proxy", PROXY), ("gold", GOLD))}
    settings = " ".join(f"{key}={value:g}" for key, value in trial.values.items())
    named = {"model": trial.model, "method": trial.method, "settings": settings}
    return named | gain | {"entropy": tuned[ENTROPY], "share": share(result), "seconds": result.compute["seconds"]}


def share(result: Result) -> float:
    """Return the share of the proxy's limit that the front through the base and the tuned model gains."""
    points = [[p.means()[PROXY], p.means()[ENTROPY]] for p in (result.base, result.tuned)]
    corner = (points[0][0], 0.0)
    limit = np.array(sorted((r["hps"], r["entropy_sampled"]) for r in result.limit["proxy_frontier"]))
    start = [[corner[0], float(np.interp(corner[0], *limit.T))]]
    whole = hypervolume_under(np.concatenate([start, limit[limit[:, 0] > corner[0]]]), corner)
    return hypervolume(points, corner) / whole


def write(rows: list[dict[str, object]]) -> None:
    """Write log.csv with every trial and table.md with those that are chosen."""
    with (HERE / "log.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    lines = [
        "| model | method | chosen of | settings | proxy | gold | entropy | share of the limit | minutes |",
        "|---" * 9 + "|",
    ]
    for _, group in itertools.groupby(rows, key=lambda row: (row["model"], row["method"])):
        tried = list(group)
        best = max(tried, key=lambda row: row["share"])
        cells = [best["model"], best["method"], len(tried), best["settings"]]
        cells += [f"{best['proxy_gain']:+.4f}", f"{best['gold_gain']:+.4f}", f"{best['entropy']:.3f}"]
        cells += [f"{best['share']:.3f}", f"{best['seconds'] / 60:.1f}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    (HERE / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> int:
    """Run the trials and write their log; return 1 if one failed."""
    plan = OmegaConf.load(HERE / "spaces.yaml")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=["shapes", "shapes_flow"])
    parser.add_argument("--methods", nargs="+", default=list(plan.methods), choices=list(plan.methods))
    parser.add_argument("--jobs", type=int, default=2, help="number of runs at a time")
    parser.add_argument("--runs", type=Path, default=Path("outputs/settings"))
    arguments = parser.parse_args()
    arguments.runs.mkdir(parents=True, exist_ok=True)
    chosen = list(trials(plan, arguments.models, arguments.methods, arguments.runs))
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for number, line in enumerate(pool.map(Trial.run, chosen), 1):
            print(f"[{number}/{len(chosen)}] {line}", flush=True)
    every = trials(plan, ["shapes", "shapes_flow"], list(plan.methods), arguments.runs)
    write([row(trial) for trial in every if (trial.folder / "result.json").exists()])
    return int(any(not (trial.folder / "result.json").exists() for trial in chosen))


if __name__ == "__main__":
    sys.exit(main())
