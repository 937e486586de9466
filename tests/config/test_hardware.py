"""The cost of a real model on given GPUs is known before a run, from counted operations, without torch or files."""

import csv
import json
import os
import re
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from rdt import run, weights
from rdt.config import hardware
from rdt.config.compose import composed
from rdt.config.plan import passes_in_all
from worlds import children

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ("hardware=h100", "devices=8", "num_nodes=8", "prompts=hpdv2", "evaluation.prompts=64", "evaluation.every=0")
EXACT = ("aig", "draft", "draft_lv", "draft_plus", "sqdf")  # others draw steps, or leave out samples without a signal


@pytest.fixture
def dry(monkeypatch, answered, tmp_path):
    """Return a function that plans a run without the hub: (exit status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(weights, "cached", lambda place: False)
    monkeypatch.setattr(weights, "refusal", lambda place: "no answer")
    return lambda *words: answered(run.entry, *words, "dry_run=true", "logger=csv")


UNCOUNTED = ("bbo", "tilt", "nft", "awm", "adjoint")  # their yaml states no plan.update


def config(*words):
    cfg = composed("config", *words, "logger=none", "output_dir=none")
    OmegaConf.resolve(cfg)
    return cfg


@pytest.mark.parametrize("model", json.loads(hardware.COUNTED.read_text("utf-8"))["models"])
def test_a_cluster_is_planned_for_every_counted_model(model, dry):
    status, plan, err = dry(*CLUSTER, f"model={model}", "method=draft", "batch_size=128")
    assert (status, err) == (0, "") and "not here: devices" not in plan
    assert "hardware: 64 x NVIDIA H100 SXM, 989 TFLOP/s in bf16 of which 40 %" in plan
    assert "an update: 128 images sampled" in plan and " of 128 samples, 2 on a GPU at a time" in plan
    hours, gpu_hours = map(float, re.findall(r"^hours: ([\d.e-]+) .* ([\d.e-]+) GPU hours$", plan, re.MULTILINE)[0])
    assert gpu_hours == pytest.approx(64 * hours, rel=0.05) and gpu_hours > 0
    assert re.search(r"^memory a GPU: at least [\d.]+ of 79.6 GiB \(weights", plan, re.MULTILINE)
    assert re.search(r"^disk: [\d.e-]+ GB for 2 checkpoints", plan, re.MULTILINE)
    assert re.search(r"^fetch: [\d.]+ GB of weights$", plan, re.MULTILINE)


def test_hours_are_operations_over_rates():
    """SQDF runs tuned, base and look-ahead forward, and takes a gradient through tuned and look-ahead."""
    cfg = config("model=sd15", "method=sqdf", "batch_size=64", "iterations=10", "hardware=a100_80", "devices=4")
    row, image = 1e12 * 0.804, 1e12 * 2.51
    update = 64 * (5 * row + 3 * 1.52e12 + 2 * image + 4.27e12)
    rolled = 10 * 64 * 2 * 50 * row
    evaluated = 32 * (16 * 2 * (2 * 50 * row + image) + 2 * 2 * 50 * row)  # base and tuned, and the KL of one image
    hours = (10 * update + rolled + evaluated) / (4 * 0.5 * 312e12) / 3600
    cfg.evaluation.every = 0
    found = "\n".join(hardware.lines(cfg, passes_in_all(cfg), hardware.update_of(cfg)))
    assert f"hours: {hours:.2g} (" in found and f"{4 * hours:.3g} GPU hours" in found


@pytest.mark.parametrize("words", [("batch_size=48",), ("hardware=l40s", "batch_size=64")])
def test_memory_grows_by_the_micro_batch_and_not_by_the_batch(words):
    cfg = config("model=sd15", "method=draft", *words, "micro_batch_size=2")
    held = hardware.held_bytes(cfg, hardware.counted(cfg)[0], hardware.update_of(cfg))
    assert held["activations"] == 2 * 2**20 * (2 * 172 + 411)
    cfg.micro_batch_size = 4
    assert hardware.held_bytes(cfg, hardware.counted(cfg)[0], hardware.update_of(cfg)) == held | {
        "activations": 2 * held["activations"]
    }


def test_what_does_not_fit_is_one_line_with_what_would(dry):
    words = ("model=sdxl", "method=draft", "hardware=rtx4090")
    status, plan, err = dry(*words, "batch_size=16")
    assert (status, plan) == (1, "") and len(err.splitlines()) == 1
    assert "hardware=rtx4090 has 24 GiB a GPU, and model=sdxl method=draft takes at least " in err
    (size,) = re.findall(r"take micro_batch_size=(\d+) or hardware=", err)
    assert dry(*words, "batch_size=16", f"micro_batch_size={size}")[0] == 0
    status, plan, _ = dry("model=sdxl", "method=draft", "batch_size=64")
    assert status == 0 and "which does not fit" in plan  # nobody chose the hardware


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("model=shapes",), "model=shapes was not counted"),
        (("model=sd15", "model.policy.setup.resolution=768"), "model=sd15 was counted at 512 px, not at 768"),
        (
            ("model=sd15", "model.policy.checkpointing=false"),
            "networks were counted with model.policy.checkpointing=true",
        ),
    ],
)
def test_what_was_not_counted_has_no_estimate(words, reason, dry):
    status, plan, err = dry(*words, "method=draft", "hardware=h100")
    assert (status, err) == (0, "") and f"hardware: no estimate, since {reason}" in plan and "hours:" not in plan


def test_hardware_is_no_part_of_a_run(answered, monkeypatch, tmp_path):
    """A run that names it says that it has no effect, and records nothing of it."""
    monkeypatch.chdir(tmp_path)
    done = []
    monkeypatch.setattr(run, "finish", lambda cfg, name="": done.append(cfg))
    status, out, err = answered(run.entry, "hardware=h100", "method=draft", "logger=csv")
    assert (status, err) == (0, "") and "note     hardware=h100 has no effect without dry_run=true" in out
    assert "hardware" not in done[0]


def rows():
    with (ROOT / "benchmarks/results/cost.csv").open(encoding="utf-8", newline="") as stream:
        return [row for row in csv.DictReader(stream) if row["method"] not in UNCOUNTED]


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row['method']}-{row['model']}")
def test_updates_are_foreseen_as_they_are_counted(row):
    """Against benchmarks/cost.py, which counts passes while it trains."""
    mixed = ["reward=mixture", "reward.parts.jpeg.weight=0"] if row["method"] == "gardo" else []
    cfg = config(f"method={row['method']}", f"model={row['model']}", "iterations=8", "evaluation.every=0", *mixed)
    update, sampled = hardware.update_of(cfg), passes_in_all(cfg).trained / cfg.iterations
    foreseen, counted = (sampled + update.forward, update.back), (float(row["forward"]), float(row["backward"]))
    if row["method"] in EXACT:
        assert foreseen == counted
    else:
        assert all(0.9 * there <= here <= 2 * there for here, there in zip(foreseen, counted, strict=True))


@pytest.mark.slow
def test_the_table_is_what_the_script_counts():
    """The smallest of the models is counted again; `python experiments/real/count.py write` counts all."""
    script = "import json, count; print(json.dumps(count.counted_model('sd15', (512,))))"
    command = [sys.executable, "-c", script]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = children.run(command, cwd=ROOT / "experiments/real", env=environment, timeout=3600)
    assert json.loads(done.stdout) == json.loads(hardware.COUNTED.read_text("utf-8"))["models"]["sd15"], done.stderr
