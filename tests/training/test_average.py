"""The average of the adapter's weights: what it is, what is evaluated and saved, and that training does not see it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rdt import result
from rdt.methods.draft import Draft
from rdt.rollout import Sampling
from rdt.training import finished, folder
from rdt.training.average import AVERAGE, Averaging, settle
from rdt.training.launch import launch, work
from worlds import tiny_policy
from worlds.smallest_run import adapter, minimal, rows


def config(out: Path, *overrides: str) -> Any:
    settings = ("logger=csv", "method=draft", "method.lr=0.02", "iterations=4", "trainer.checkpoint_every=1")
    return minimal(out, *settings, "evaluation.every=1", *overrides)


def raw(out: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of the LoRA of a run's last iteration, by name."""
    return load_file(out / "lora" / "raw" / "pytorch_lora_weights.safetensors")


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(tensor.equal(b[name]) for name, tensor in a.items())


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("plain") / "out"
    work(config(out))
    return out


@pytest.fixture(scope="module")
def averaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("averaged") / "out"
    work(config(out, "trainer.ema.decay=0.9"))
    return out


def test_the_average_follows_its_formula_and_ends_in_the_adapters_place() -> None:
    policy = tiny_policy.policy(trained=False)
    method = Draft(
        policy=policy, reward=tiny_policy.Brightness(), sampling=Sampling(3, 1.0, 1.0), K=1, batch_size=4, seed=0,
        lr=0.02, weight_decay=0.0, max_grad_norm=1e9, adam_eps=1e-8, micro_batch_size=None,
    )  # fmt: skip
    path = [{name: weight.clone() for name, weight in policy.lora().items()}]
    probe = tiny_policy.Probe(lambda *_: path.append({name: w.clone() for name, w in policy.lora().items()}))
    tiny_policy.fit(method, 6, probe, Averaging(0.2, every=2))
    expected, found = path[0], policy.lora(AVERAGE)
    for n, step in enumerate((2, 4, 6)):
        d = min(0.2, (1 + n) / (10 + n))
        expected = {name: d * weight + (1 - d) * path[step][name] for name, weight in expected.items()}
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight)
    settle(policy)
    assert equal(policy.lora(AVERAGE), path[-1])
    for name, weight in expected.items():
        torch.testing.assert_close(policy.lora()[name], weight)


def test_training_does_not_see_the_average(plain: Path, averaged: Path) -> None:
    assert equal(raw(averaged), adapter(plain)) and not (plain / "lora" / "raw").exists()
    for one, other in zip(rows(plain), rows(averaged), strict=True):
        assert {k: v for k, v in one.items() if k[:4] != "eval"} == {k: v for k, v in other.items() if k[:4] != "eval"}


def test_the_average_is_what_is_evaluated_saved_and_read_again(plain: Path, averaged: Path) -> None:
    assert not equal(adapter(averaged), adapter(plain))
    evaluations = [
        [{k: v for k, v in row.items() if k[:4] == "eval"} for row in rows(out)] for out in (plain, averaged)
    ]
    assert evaluations[0] != evaluations[1] and all(evaluations[1][-1].values())
    results = [result.read(out) for out in (plain, averaged)]
    assert results[0].base == results[1].base and results[0].points != results[1].points
    assert results[0].weights == results[1].weights and "`raw/`" in (averaged / "lora" / "README.md").read_text()
    policy = finished.read_finished(averaged, None).experiment().policy
    kept = torch.load(folder.checkpoints(averaged)[-1] / "run.ckpt", weights_only=True)["snapshots"][AVERAGE]
    assert equal(policy.lora(), kept)


def test_an_averaged_run_resumes_bit_for_bit(averaged: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    work(config(out, "trainer.ema.decay=0.9", "iterations=2"))
    work(config(out, "trainer.ema.decay=0.9"))
    assert rows(out) == rows(averaged) and equal(adapter(out), adapter(averaged)) and equal(raw(out), raw(averaged))
    assert result.read(out).points == result.read(averaged).points


def test_an_averaged_run_is_not_continued_without_its_average(averaged: Path) -> None:
    wanted = r"a checkpoint of trainer\.ema\.decay=0\.9, which trainer\.ema\.decay=0\.0 cannot continue"
    with pytest.raises(ValueError, match=wanted):
        folder.check_output_dir(config(averaged))


def test_rollback_restores_the_average_that_met_the_constraints(tmp_path: Path) -> None:
    bound = ("constraint.entropy.min=2", "constraint.entropy.action=rollback", "trainer.ema.decay=0.9")
    work(config(tmp_path / "out", *bound))
    assert not any(weight.any() for name, weight in adapter(tmp_path / "out").items() if "lora_B" in name)
    assert equal(adapter(tmp_path / "out"), raw(tmp_path / "out"))


@pytest.mark.slow
def test_two_ranks_keep_the_average_of_one(tmp_path: Path) -> None:
    work(config(tmp_path / "alone", "trainer.ema.decay=0.9", "micro_batch_size=2", "evaluation.every=0"))
    launch(config(tmp_path / "two", "trainer.ema.decay=0.9", "devices=2", "evaluation.every=0"))
    assert equal(adapter(tmp_path / "alone"), adapter(tmp_path / "two"))
