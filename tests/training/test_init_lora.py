"""A run may start from a LoRA, and its KL may be to that start; what cannot be started from is refused in one line."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from rdt import run
from rdt.policy import INIT
from rdt.training.launch import build, work
from worlds.smallest_run import adapter, minimal, rows

FILE = "pytorch_lora_weights.safetensors"


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished run."""
    out = tmp_path_factory.mktemp("first") / "out"
    work(minimal(out, "logger=csv", "method=draft", "method.lr=0.02"))
    return out


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(tensor.equal(b[name]) for name, tensor in a.items())


def config(out: Path, first: Path, *overrides: str) -> Any:
    settings = ("logger=csv", "method=draft_plus", "method.K=2", f"init_lora={first}", "trainer.checkpoint_every=1")
    return minimal(out, *settings, *overrides)


@pytest.mark.parametrize("place", ["", "lora", f"lora/{FILE}"], ids=["run", "folder", "file"])
def test_a_run_starts_from_a_file_a_folder_or_another_run(first: Path, place: str, tmp_path: Path) -> None:
    policy = build(config(tmp_path / "out", first / place)).experiment.policy
    policy.save_lora(tmp_path / "lora")
    (tmp_path / "out").mkdir()
    shutil.move(tmp_path / "lora", tmp_path / "out" / "lora")
    assert equal(adapter(tmp_path / "out"), adapter(first)) and equal(policy.lora(INIT), policy.lora())


def test_the_kl_is_to_the_base_or_to_the_start(first: Path, tmp_path: Path) -> None:
    for reference in ("base", "init"):
        work(config(tmp_path / reference, first, f"method.kl_reference={reference}"))
    nats = {name: [float(row["train/kl_nats"]) for row in rows(tmp_path / name)] for name in ("base", "init")}
    assert nats["base"][0] > nats["init"][0] == 0 < nats["init"][1]


@pytest.mark.parametrize("method", ["sqdf", "grpo", "tilt"])
def test_methods_with_a_kl_start_at_none(method: str, first: Path, tmp_path: Path) -> None:
    own = {"grpo": ["method.kl_coef=0.1", "method.group=2"], "tilt": [], "sqdf": ["method.replay_ratio=1"]}[method]
    words = (f"method={method}", *own, "method.kl_reference=init", f"init_lora={first}", "evaluation.kl_images=0")
    work(minimal(tmp_path / "out", "logger=csv", *words, "iterations=1"))
    assert float(rows(tmp_path / "out")[0]["train/kl_nats"]) == pytest.approx(0, abs=1e-6)


def test_a_tilt_of_strength_zero_stays_the_start_bit_for_bit(first: Path, tmp_path: Path) -> None:
    words = ("method=tilt", "method.strength=0", "method.kl_reference=init", f"init_lora={first}")
    work(minimal(tmp_path / "out", "logger=csv", *words))
    assert equal(adapter(tmp_path / "out"), adapter(first))


def test_a_run_from_a_lora_resumes_bit_for_bit(first: Path, tmp_path: Path) -> None:
    own = ("method.kl_reference=init", "iterations=3")
    work(config(tmp_path / "whole", first, *own))
    work(config(tmp_path / "out", first, *own, "iterations=2"))
    work(config(tmp_path / "out", first, *own))
    assert rows(tmp_path / "out") == rows(tmp_path / "whole")
    assert equal(adapter(tmp_path / "out"), adapter(tmp_path / "whole"))


def test_a_rollback_without_a_good_adapter_ends_with_the_start(first: Path, tmp_path: Path) -> None:
    bound = ("constraint.entropy.min=2", "constraint.entropy.action=rollback", "evaluation.every=1")
    work(config(tmp_path / "out", first, *bound))
    assert equal(adapter(tmp_path / "out"), adapter(first))


def test_what_cannot_be_started_from_is_refused_in_one_line(first: Path, tmp_path: Path, answered: Any) -> None:
    (tmp_path / "empty").mkdir()
    cases = {
        f"init_lora={tmp_path / 'none'}": "no file",
        f"init_lora={tmp_path / 'empty'}": f"expected {FILE} or one .safetensors file in it, and it has none",
        f"init_lora={first}": "has rank 2, model.lora.rank=8; take model.lora.rank=2",
        "method.kl_reference=init": "method.kl_reference=init needs init_lora, which is not set",
        "method.kl_reference=tuned": "method.kl_reference=tuned is not one of base, init",
    }
    for word, reason in cases.items():
        status, _, err = answered(run.entry, word, "dry_run=true", f"output_dir={tmp_path / 'out'}")
        assert status == 1 and err.count("\n") == 1 and reason in err, err


def test_a_lora_of_other_modules_is_refused_before_training(first: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^init_lora=.*: LoRA does not fit this model"):
        build(config(tmp_path / "out", first, "model.lora.targets=[to_q]"))
