"""Run folders as `rdt.run` leaves them, with made-up scores: what reports are drawn from."""

import json

import numpy as np
import torch
import yaml
from PIL import Image

from rdt.image_record import Recorded, write_images
from rdt.pareto import bootstrap_mean, paired_difference

PROMPTS = [f"a circle number {i}" for i in range(12)]
FRONTIER = [
    {"gold": 0.8 + 0.2 * s, "entropy": 1 - s**2, "entropy_sampled": 0.95 * (1 - s**2)} for s in np.linspace(0, 1, 30)
]
LEVELS = {
    "reward/hps": 0.2,
    "reward/gold": 0.8,
    "diversity/entropy": 0.95,
    "diversity/vendi": 9.0,
    "fidelity/residual": 0.01,
}


def score(values, base):
    """Return a score as result.json states it, paired with the base's values if given."""
    found = bootstrap_mean(values, 0)
    entry = {"mean": found.mean, "ci95": [found.lo, found.hi]}
    if base is not None:
        change = paired_difference(values, base, 0)
        entry["diff"] = {"mean": change.mean, "ci95": [change.lo, change.hi]}
    return entry


def point(label, shift, seed, base=None):
    """Return a point of result.json whose scores are LEVELS plus a shift by name and noise by prompt."""
    rng = np.random.default_rng(seed)
    rows = {name: level + shift.get(name, 0.0) + rng.normal(0, 0.01, 12) for name, level in LEVELS.items()}
    entry = {
        "label": label,
        "guidance": {"name": label},
        "fidelity": {},
        "n_prompts": 12,
        "n_per_prompt": 16,
        "prompts": PROMPTS,
    }
    for name, values in rows.items():
        group, _, short = name.partition("/")
        entry.setdefault(group, {})[short] = score(values, base and base["per_prompt"][name])
    entry["kl_nats"] = {"mean": 1.5, "ci95": [1.0, 2.0]}
    return entry | {"per_prompt": {name: list(map(float, values)) for name, values in rows.items()}}


def write_run(folder, method="sqdf", seed=0, shift=None, overrides=(), label="cfg", **changes):
    """Write a run folder and return its result.json; `changes` replace top-level entries of that."""
    (folder / "samples").mkdir(parents=True)
    base = point("base", {}, seed)
    tuned = point(label, shift or {"reward/hps": 0.03, "diversity/entropy": -0.1}, seed + 100, base)
    result = {
        "schema": 2, "method": method, "reward": "hps", "model": "shapes", "seed": seed, "iterations": 60,
        "points": [tuned], "base": base, "limit": {"reward": "gold", "diversity": "entropy", "frontier": FRONTIER},
        "compute": {"seconds": 12.5, "images": 960, "device": "cpu"}, "versions": {"torch": "2.13.0"},
    }  # fmt: skip
    (folder / "result.json").write_text(json.dumps(result | changes))
    typed = [f"method={method}", f"seed={seed}", *overrides]
    (folder / "config.yaml").write_text(yaml.safe_dump({"seed": seed, "overrides": typed}))
    (folder / "metrics.csv").write_text("iteration,train/reward,eval/hps\n0,0.2,\n1,0.3,0.21\n2,nan,0.22\n3,0.4,\n")
    for name, hue in (("base", "blue"), ("tuned", "red")):
        Image.new("RGB", (64, 32), hue).save(folder / "samples" / f"{name}.png")
    return result


def write_records(folder, points, prompts=3, images=2, size=16):
    """Write records of images in one colour per point: `points` maps the name of a point's folder to its red level."""
    for name, red in points.items():
        pixels = torch.zeros(prompts, images, 3, size, size, dtype=torch.uint8)
        pixels[:, :, 0] = red
        pixels[:, :, 1] = 40 * torch.arange(prompts)[:, None, None, None]
        pixels[:, :, 2] = 90 * torch.arange(images)[None, :, None, None]
        scores = {row: {"hps": 0.001 * red + 0.01 * row + 0.002 * torch.arange(images)} for row in range(prompts)}
        write_images(folder / "samples" / name, Recorded(PROMPTS, 16, 0), dict(enumerate(pixels)), scores)
