"""Write results.csv, table.md and front.png from the runs of reproduce.sh: paired over prompts and seeds."""

import csv
import json
import shutil
import sys
from pathlib import Path

import numpy as np

from rdt.pareto import bootstrap_mean
from rdt.report.write import report

METRICS = ("reward/hps", "reward/gold", "reward/judge", "diversity/entropy", "diversity/vendi", "diversity/pairwise",
           "fidelity/residual", "kl_nats")  # fmt: skip
VARIANTS = {
    "default": "SQDF, defaults",
    "collapse": "kl_coef 0, gamma 1, no replay",
}


def values(results: list[dict], metric: str, which: str) -> np.ndarray:
    """(seeds, prompts) of the base or of the tuned policy."""
    points = [result["base"] if which == "base" else result["points"][0] for result in results]
    return np.array([point["per_prompt"][metric] for point in points])


def rows(runs: Path) -> list[dict[str, object]]:
    """One row per variant and metric."""
    found = []
    for name, label in VARIANTS.items():
        results = [json.loads(file.read_text()) for file in sorted(runs.glob(f"{name}-s*/result.json"))]
        for metric in METRICS:
            base, tuned = values(results, metric, "base"), values(results, metric, "tuned")
            diff = bootstrap_mean(tuned - base, seed=0)
            found.append({
                "variant": label, "metric": metric, "seeds": len(results), "prompts": base.shape[1],
                "base": base.mean(), "tuned": tuned.mean(), "diff": diff.mean, "lo": diff.lo, "hi": diff.hi,
                "share_of_base": tuned.mean() / base.mean() if base.mean() else float("nan"),
                "by_seed": " ".join(f"{value:+.4f}" for value in (tuned - base).mean(1)),
            })  # fmt: skip
    return found


def main(runs: Path, out: Path) -> None:
    """Write the table twice, for machines and for people, and the picture."""
    table = rows(runs)
    with (out / "results.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(table[0]))
        writer.writeheader()
        writer.writerows({k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()} for row in table)
    lines = ["| | metric | base | tuned | paired difference | of each seed | share of base |", "|" + "---|" * 7]
    for row in table:
        interval = f"{row['diff']:+.4f} [{row['lo']:+.4f}, {row['hi']:+.4f}]"
        share = "" if row["metric"] == "kl_nats" else f"{row['share_of_base']:.1%}"
        means = f"{row['base']:.4f}", f"{row['tuned']:.4f}"
        cells = [row["variant"], row["metric"], *means, interval, row["by_seed"], share]
        lines.append(f"| {' | '.join(cells)} |")
    (out / "table.md").write_text("\n".join(lines) + "\n")
    report(sorted(runs.glob("*-s*")), runs)
    shutil.copy(runs / "front.png", out / "front.png")
    print("\n".join(lines))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
