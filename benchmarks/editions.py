"""Compare the embedded world's speed with that of its first edition, both run in alternation on this machine.

    python benchmarks/editions.py <checkout of 7eab959> [rounds]

Each edition runs its own defaults: sampler steps, guidance, networks and batches belong to what is compared. A command
is run at two sizes, and the rate is the additional work over the additional seconds, so that starting costs nothing.
It prints `what | first edition | this one | ratio | load` with medians over the rounds, in images or samples a second.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
QUIET = ("evaluation.every=0", "evaluation.limit=null", "logger=none", "trainer.checkpoint_every=100000")
LITTLE = ("evaluation.prompts=1", "evaluation.images_per_prompt=2", "evaluation.kl_images=0", "evaluation.grid=[1,1]")


@dataclass(frozen=True)
class Size:
    """Holds a command's arguments and the images or samples it makes beyond what every size makes."""

    arguments: tuple[str, ...]
    work: int


@dataclass(frozen=True)
class Work:
    """Holds the small and the large size of one kind of work in the first edition and in this one."""

    name: str
    first: tuple[Size, Size]
    second: tuple[Size, Size]


def training(method: str, batch: int, few: int, many: int, *more: str) -> tuple[Size, Size]:
    """Return two lengths of a training run that makes `batch` images or samples an iteration."""
    arguments = (f"method={method}", f"batch_size={batch}", *more, *QUIET, *LITTLE)
    small, large = (Size((*arguments, f"iterations={n}"), n * batch) for n in (few, many))
    return small, large


def evaluation(few: int, many: int) -> tuple[Size, Size]:
    """Return two sizes of an evaluation of base and tuned, 24 prompts, that differ in the images of each prompt."""
    arguments = ("method=draft", "iterations=1", *QUIET, "evaluation.kl_images=0", "evaluation.prompts=24")
    small, large = (Size((*arguments, f"evaluation.images_per_prompt={n}"), 2 * 24 * n) for n in (few, many))
    return small, large


WORKS = (
    Work("GRPO, images", training("grpo", 40, 2, 14), training("grpo", 384, 2, 12)),
    Work("SQDF, gradient samples", training("sqdf", 16, 8, 48), training("sqdf", 64, 8, 48)),
    Work("evaluation, images", evaluation(6, 30), evaluation(12, 96)),
)


def main() -> None:
    """Print the table."""
    old, rounds = Path(sys.argv[1]).resolve(), int(sys.argv[2]) if len(sys.argv) > 2 else 3
    print("what | first edition | this one | ratio | load", flush=True)
    for work in WORKS:
        pairs = [(rate(old, work.first), rate(HERE, work.second)) for _ in range(rounds)]
        first, second = (statistics.median(rates) for rates in zip(*pairs, strict=True))
        ratio = statistics.median(ours / theirs for theirs, ours in pairs)
        print(f"{work.name} | {first:.1f} | {second:.1f} | {ratio:.2f} | {os.getloadavg()[0]:.1f}", flush=True)


def rate(tree: Path, sizes: tuple[Size, Size]) -> float:
    """Return the additional work a second of the large size of a command, run from a checkout."""
    small, large = sizes
    return (large.work - small.work) / (seconds(tree, large.arguments) - seconds(tree, small.arguments))


def seconds(tree: Path, arguments: Sequence[str]) -> float:
    """Return how long one command takes."""
    with tempfile.TemporaryDirectory(prefix="editions-") as folder:
        command = [sys.executable, "-m", "rdt.run", f"output_dir={folder}/out", *arguments]
        began = time.perf_counter()
        subprocess.run(command, cwd=folder, env=os.environ | {"PYTHONPATH": str(tree)}, check=True, capture_output=True)
        return time.perf_counter() - began


if __name__ == "__main__":
    main()
