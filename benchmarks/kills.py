"""Kills runs at random moments with SIGKILL, continues them, and compares them bit for bit with runs left alone.

    python benchmarks/kills.py [<trials per kind> [<seed> [<kind> ...]]]

It prints `what | equal/tried` per kind of run. The adapter, metrics.csv, the sample grids, the checkpoints and
result.json are compared, but for seconds, memory and rate. Runs are started in forks of one process that has the
libraries loaded already, so that most moments fall into training, evaluation and the record.
"""

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from rdt import run
from rdt.result import FILE
from rdt.training import folder, launch
from rdt.training.finished import LORA

TINY = (
    "batch_size=4", "model.sampling.num_steps=3", "model.lora.rank=2", "model.lora.alpha=2", "evaluation.prompts=2",
    "evaluation.images_per_prompt=2", "evaluation.kl_images=1", "evaluation.every=3", "evaluation.small_prompts=2",
    "evaluation.limit=null", "logger=csv", "trainer.checkpoint_every=1", "iterations=6",
)  # fmt: skip
KINDS = {
    "sqdf": ("method=sqdf", "method.replay_ratio=2"),
    "grpo": ("method=grpo", "method.group=2"),
    "drift": ("method=drift", "method.group=4", "method.keep=2"),
    "draft_plus": ("method=draft_plus",),
    "bbo": ("experiment=bbo", "method.queries=[5,4,6]", "method.budget=15", "method.updates_per_round=2",
            "method.query_batch_size=2"),
    "sqdf, devices=2": ("method=sqdf", "method.replay_ratio=2", "devices=2"),
}  # fmt: skip
VARYING = ("seconds", "peak_memory_bytes", "images_per_second")  # of result.json's compute
NEVER = 1e9  # seconds after which a run is killed


def main() -> int:
    """Run all trials and print the table; exit status 1 if a continued run differs."""
    numbers, kinds = sys.argv[1:3], sys.argv[3:] or list(KINDS)
    trials, seed = (int(number) for number in [*numbers, *("7", "0")[len(numbers) :]])
    assert launch  # its import has loaded the libraries
    found = {kind: trial_results(kind, trials, random.Random(f"{seed} {kind}")) for kind in kinds}
    print("\nwhat | equal/tried")
    for kind, equal in [*found.items(), ("all", [one for results in found.values() for one in results])]:
        print(f"{kind} | {sum(equal)}/{len(equal)}")
    return int(not all(map(all, found.values())))


def trial_results(kind: str, trials: int, moments: random.Random) -> list[bool]:
    """Return, per run that was killed, whether it ended as the run that was not."""
    results: list[bool] = []
    with tempfile.TemporaryDirectory(prefix="kills-") as scratch:
        whole, out = Path(scratch) / "whole" / "out", Path(scratch) / "killed" / "out"
        began = time.monotonic()
        if not ended(whole, kind, NEVER):
            raise RuntimeError(f"{kind}: the run without a kill failed, see above")
        seconds = time.monotonic() - began
        while len(results) < trials:
            shutil.rmtree(out.parent, ignore_errors=True)
            moment = moments.uniform(0.05, 1) * seconds
            if ended(out, kind, moment):
                continue  # it was faster than the moment
            state = ", ".join(sorted(path.name for path in out.rglob("*") if path.is_dir() or path.suffix == ".json"))
            different = differences(whole, out) if ended(out, kind, NEVER) else ["it could not be continued"]
            results.append(not different)
            print(f"{kind}: killed after {moment:.1f} s ({state}): {different or 'equal'}", flush=True)
    return results


def ended(out: Path, kind: str, moment: float) -> bool:
    """Run the command in a fork and kill it after so many seconds; return whether it ended well before."""
    out.parent.mkdir(parents=True, exist_ok=True)
    process = os.fork()
    if process == 0:
        command(out, kind)
    deadline = time.monotonic() + moment
    while time.monotonic() < deadline:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return status == 0
        time.sleep(0.02)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    time.sleep(2 if "devices=2" in kind else 0)  # its workers end by themselves
    return False


def command(out: Path, kind: str) -> None:
    """Run the command of this process, whose output goes into a file, and exit."""
    log = os.open(out.parent / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(out.parent)
    sys.argv = ["rdt", f"output_dir={out.name}", *TINY, *KINDS[kind]]
    status = 1
    try:
        run.entry()
        status = 0
    except SystemExit as stop:
        status = int(stop.code or 0)
    finally:
        os._exit(status)


def differences(whole: Path, out: Path) -> list[str]:
    """Return what differs between two runs."""
    found = [name for name, read in READERS.items() if not same(read(whole), read(out))]
    left = [
        str(path.relative_to(out)) for path in out.rglob("*") if path.name.startswith(".") or "partial" in path.name
    ]
    return found + [f"{name} is left" for name in left]


def result(out: Path) -> dict[str, Any]:
    """Return the content of result.json but for what varies."""
    content = json.loads((out / FILE).read_text("utf-8"))
    for name in VARYING:
        del content["compute"][name]
    return content


def checkpoints(out: Path) -> dict[str, Any]:
    """Return the state in every checkpoint by its name, but for the seconds."""
    found = {path.name: torch.load(path / "run.ckpt", weights_only=True) for path in folder.checkpoints(out)}
    return {name: {key: part for key, part in state.items() if key != "seconds"} for name, state in found.items()}


READERS = {
    "adapter": lambda out: load_file(out / LORA),
    "metrics.csv": lambda out: (out / "metrics.csv").read_bytes(),
    "result.json": result,
    "samples": lambda out: {path.name: path.read_bytes() for path in (out / "samples").iterdir()},
    "checkpoints": checkpoints,
}


def same(a: Any, b: Any) -> bool:
    """Return whether nested tensors and values are equal bit for bit."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


if __name__ == "__main__":
    sys.exit(main())
