"""Experiments on real models can be planned without their weights and without a network."""

import os
import re
import sys
from pathlib import Path

import pytest
import torch

from rdt import run, weights
from rdt.config.compose import conf_dir
from worlds import children, full_size_checkpoints
from worlds.smallest_run import minimal

ROOT = Path(__file__).resolve().parents[2]
REAL = ROOT / "experiments/real"
ROW = re.compile(r"\| `(\w+)` \| ([\d,]+) \| [\d,]+ \| ([\d,]+) \|")
COSTS = {name: counts for name, *counts in ROW.findall((REAL / "cost.md").read_text("utf-8"))}  # to sample, to evaluate
NAMES = [file.stem for file in sorted((Path(conf_dir()) / "experiment/real").glob("[!_]*.yaml"))]


@pytest.fixture
def dry(monkeypatch, answered, tmp_path):
    """Return a function that runs `rdt run ...` in an empty folder: (exit status, stdout, stderr, hub requests)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(weights, "cached", lambda place: False)

    def answer(*overrides, silence="no answer"):
        requests = []
        monkeypatch.setattr(weights, "refusal", lambda place: requests.append(place) or silence)
        said = answered(run.entry, *overrides, "logger=csv")
        assert not list(tmp_path.iterdir())
        return *said, len(requests)

    return answer


def test_every_experiment_is_in_the_tables():
    listed = re.findall(r"`python -m rdt\.run experiment=real/(\w+)` \|", (REAL / "README.md").read_text("utf-8"))
    assert sorted(COSTS) == sorted(listed) == NAMES


@pytest.mark.slow
def test_the_costs_are_what_the_script_counts():
    command = [sys.executable, str(REAL / "count.py")]
    done = children.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=3600)
    assert done.stdout == (REAL / "cost.md").read_text("utf-8"), done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_is_planned_offline_at_the_cost_in_the_table(name, dry):
    status, out, err, requests = dry(f"experiment=real/{name}", "dry_run=true")
    assert status == 0 and err == "" and requests == 1
    method, reward, model = re.match(r"method=(\w+) reward=(\w+) model=(\w+) ", out).groups()
    assert f"{name}_".startswith(f"{method}_{model}_{reward}_")
    judges = re.findall(r"needs evaluation\.judges\.(\w+)\.", out)
    assert judges and "judge " not in out.partition("method=")[0]  # every judge is named, none is left out
    needs = [line for line in out.splitlines() if line.startswith("needs ")]
    assert len(needs) >= 5 and all("(not here: the first run fetches it" in line for line in needs)
    assert re.findall(r"(?:sample for that|evaluate): (?:.*, )?([\d,]+) network passes", out) == COSTS[name]


@pytest.mark.parametrize("method", ["grpo", "drift", "gardo", "diverse_grpo"])
@pytest.mark.parametrize("model", ["sd15", "sdxl", "sd3", "flux"])
def test_groups_fit_into_the_batch_of_every_model(model, method, tmp_path, monkeypatch):
    monkeypatch.setattr("worlds.smallest_run.OVERRIDES", ())
    cfg = minimal(tmp_path, f"model={model}", f"method={method}", "logger=none")
    assert cfg.batch_size % cfg.method.group == 0 and cfg.batch_size % cfg.method.updates_per_rollout == 0
    assert cfg.method.num_steps < cfg.model.sampling.num_steps


@pytest.mark.parametrize(("silence", "planned"), [("no answer", False), (weights.GATED, True), (weights.UNKNOWN, True)])
def test_a_run_without_the_hub_is_one_line_and_a_plan_that_the_hub_refuses_a_line_for_each_file(silence, planned, dry):
    status, out, err, _ = dry(f"experiment=real/{NAMES[0]}", f"dry_run={planned}".lower(), silence=silence)
    lines = err.splitlines()
    assert status == 1 and out == "" and (len(lines) > 5 if planned else len(lines) == 1)
    assert all(silence in line and "hf download" in line for line in lines)


def test_the_hub_gets_the_type_of_a_repository(monkeypatch):
    types = []
    for name in ("repo_info", "auth_check"):
        monkeypatch.setattr(f"huggingface_hub.HfApi.{name}", lambda self, repo, **how: types.append(how["repo_type"]))
    weights.check_source("dataset:nosuch/prompts:train.json")
    weights.check_source("hub:nosuch/weights")
    assert types == ["dataset", "dataset", "model", "model"]


@pytest.mark.parametrize("name", full_size_checkpoints.COMPONENTS)
def test_the_benchmark_networks_have_the_published_parameter_counts(name):
    with torch.device("meta"):
        made = {part: make() for part, make in full_size_checkpoints.COMPONENTS[name].items() if part != "unet"}
    found = {part: sum(weight.numel() for weight in module.parameters()) for part, module in made.items()}
    published = {"vae": 83_653_863, "text_encoder": 123_060_480, "text_encoder_2": 694_659_840}
    assert found == {part: published[part] for part in made}


@pytest.mark.slow
def test_the_benchmark_runs_and_prints_its_device():
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(ROOT / "benchmarks/real.py")]
    done = children.run(command, env=environment, timeout=3600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tiny random checkpoints" in done.stdout and done.stdout.count("attention flash_attention") == 4
