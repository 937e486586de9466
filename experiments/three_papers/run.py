"""Run every variant of variants.yaml and then write the tables: `python experiments/three_papers/run.py [--jobs 2]`.

Start it again after an interruption: finished runs are kept and unfinished ones continue.
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
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}  # networks this small do not gain from threads


@dataclass(frozen=True)
class Job:
    """Holds the overrides of one run and of its evaluations under further guidances."""

    folder: Path
    train: list[str]
    evaluate: list[list[str]]

    @property
    def done(self) -> bool:
        """Return whether the run and all its evaluations have finished."""
        return (self.folder / "done").exists()

    def run(self) -> str:
        """Run what is not done, and return a line on how it ended."""
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
    """Return a job per variant and seed; all variants of a seed come before the next seed."""
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
    """Run the jobs and write the tables of complete variants; return 1 if a run failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2, help="number of runs at a time")
    parser.add_argument("--runs", type=Path, default=Path("outputs/three_papers"))
    parser.add_argument("--only", nargs="+", help="names of the variants to run; without tables")
    arguments = parser.parse_args()
    arguments.runs.mkdir(parents=True, exist_ok=True)
    plan = OmegaConf.load(HERE / "variants.yaml")
    wanted = [
        j
        for j in jobs(plan, arguments.runs)
        if not arguments.only or j.folder.name.rpartition("-s")[0] in arguments.only
    ]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        lines = []
        for number, line in enumerate(pool.map(Job.run, wanted), 1):
            print(f"[{number}/{len(wanted)}] {line}", flush=True)
            lines.append(line)
    if arguments.only:
        return int(any("FAILED" in line for line in lines))
    return int(any("FAILED" in line for line in lines)) or subprocess.call(
        [sys.executable, HERE / "table.py", arguments.runs, HERE]
    )


if __name__ == "__main__":
    sys.exit(main())
