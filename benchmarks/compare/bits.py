"""Compares what two checkouts of rdt train and evaluate, bit for bit.

    python benchmarks/compare/bits.py record <checkout> <values.json>
    python benchmarks/compare/bits.py diff <values.json> <values.json>

`record` runs every method on both embedded models for three small iterations, then evaluates one run of each model
under two other guidances: 26 configurations. It writes a digest of each adapter and every per-prompt value.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import recordings

METHODS = ("aig", "alignprop", "bbo", "ddpo", "draft", "draft_lv", "draft_plus", "drift", "grpo", "refl", "sqdf")
MODELS = ("shapes", "shapes_flow")
SMALL = (
    "iterations=3", "batch_size=8", "model.sampling.num_steps=3", "model.lora.rank=2", "model.lora.alpha=2",
    "evaluation.prompts=2", "evaluation.images_per_prompt=2", "evaluation.kl_images=1", "evaluation.every=2",
    "evaluation.small_prompts=1", "evaluation.limit=null", "logger=csv",
)  # fmt: skip
GUIDANCES = (("guidance=aig", "guidance.power=2"), ("guidance=lora_scale", "guidance.curve=[0.5,0.25]"))


def record(checkout: Path) -> dict[str, Any]:
    """Run every configuration in `checkout` and return its values by name."""
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(os.cpu_count()) as pool:
        out = {f"{model} {method}": Path(scratch) / f"{model}-{method}" for model in MODELS for method in METHODS}
        list(pool.map(lambda name: train(checkout, name, out[name]), out))
        found = {name: {"adapter": adapter(folder)} | values(folder) for name, folder in out.items()}
        for model in MODELS:  # one after another, since both write into the run's folder
            folder = out[f"{model} draft"]
            for guidance in GUIDANCES:
                command(checkout, "rdt.evaluate", f"run={folder}", *guidance)
                found[f"{model} draft {' '.join(guidance)}"] = values(folder)
    return found


def train(checkout: Path, name: str, out: Path) -> None:
    """Train one small run."""
    model, method = name.split()
    command(checkout, "rdt.run", f"model={model}", f"method={method}", f"output_dir={out}", *SMALL)


def command(checkout: Path, module: str, *overrides: str) -> None:
    """Run a command of the checkout; SystemExit with its output if it fails."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(checkout)}
    run = subprocess.run(
        [sys.executable, "-m", module, *overrides], cwd=checkout, env=environment, capture_output=True, text=True
    )
    if run.returncode:
        raise SystemExit(f"{module} {' '.join(overrides)} in {checkout} failed:\n{run.stdout}\n{run.stderr}")


def adapter(out: Path) -> str:
    """Return the digest of the run's adapter: names, shapes and bits of all tensors."""
    from safetensors.torch import load_file

    weights = load_file(out / "lora" / "pytorch_lora_weights.safetensors")
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def values(out: Path) -> dict[str, Any]:
    """Return every per-prompt value of the run's base and points."""
    result = json.loads((out / "result.json").read_text("utf-8"))
    points = {point["label"]: point["per_prompt"] for point in result["points"]}
    return {"base": result["base"]["per_prompt"], "points": points}


def diff(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return the names of configurations that differ or are missing on one side."""
    return [name for name in sorted(before | after) if before.get(name) != after.get(name)]


def compare(before: dict[str, Any], after: dict[str, Any]) -> int:
    """Print how many configurations differ, and which; return 1 if any does."""
    different = diff(before, after)
    print(f"{len(before)} configurations, {len(different)} differ", *different, sep="\n")
    return bool(different)


if __name__ == "__main__":
    sys.exit(recordings.run(record, compare))
