"""Make every run of variants.yaml and then the tables: `python experiments/three_papers/run.py [--jobs 2]`.

Finished runs are kept and unfinished ones continued: start it again after an interruption.
"""

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

HERE = Path(__file__).resolve().parent
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}  # networks this small gain nothing from threads


@dataclass(frozen=True)
class Job:
    """One run, and the evaluations of it under further guidances."""

    folder: Path
    train: list[str]
    evaluate: list[list[str]]

    @property
    def done(self) -> bool:
        return (self.folder / "done").exists()

    def run(self) -> str:
        """A line on how it ended."""
        log = self.folder.with_suffix(".log")
        steps = [["rdt.run", *self.train, f"output_dir={self.folder}"]]
        steps += [["rdt.evaluate", f"run={self.folder}", *guidance] for guidance in self.evaluate]
        with log.open("w") as stream:
            for step in steps if not self.done else []:
                command = [sys.executable, "-m", *step]
                if subprocess.run(command, stdout=stream, stderr=stream, env=os.environ | ONE_THREAD).returncode:
                    return f"{self.folder.name}: FAILED, see {log}"
        (self.folder / "done").touch()
        return f"{self.folder.name}: done"


def jobs(plan: DictConfig, runs: Path) -> list[Job]:
    """Every variant from every seed, all variants of a seed before the next."""
    return [
        Job(
            runs / f"{name}-s{seed}",
            [*plan.common, *plan.budgets[variant.budget], *variant.run, f"seed={seed}"],
            [list(guidance) for guidance in variant.get("evaluate", [])],
        )
        for seed in plan.seeds
        for name, variant in plan.variants.items()
    ]


def main() -> int:
    """Exit status 1 where a run failed; the tables are made of complete variants only."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--runs", type=Path, default=Path("outputs/three_papers"))
    parser.add_argument("--only", nargs="+", help="names of variants")
    given = parser.parse_args()
    given.runs.mkdir(parents=True, exist_ok=True)
    plan = OmegaConf.load(HERE / "variants.yaml")
    wanted = [j for j in jobs(plan, given.runs) if not given.only or j.folder.name.rpartition("-s")[0] in given.only]
    with ThreadPoolExecutor(given.jobs) as pool:
        ends = []
        for number, line in enumerate(pool.map(Job.run, wanted), 1):
            print(f"[{number}/{len(wanted)}] {line}", flush=True)
            ends.append(line)
    if given.only:
        return int(any("FAILED" in line for line in ends))
    return int(any("FAILED" in line for line in ends)) or subprocess.call(
        [sys.executable, HERE / "table.py", given.runs, HERE]
    )


if __name__ == "__main__":
    sys.exit(main())
