"""One run on two processes: the same adapters, the same evaluation, and one line where a process fails."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

from rdt.errors import Terminated
from rdt.training import folder
from rdt.training.launch import launch, work
from worlds import failing_reward
from worlds.smallest_run import adapter, minimal, rows

DEVICES = 2


def config(out, *overrides):
    """One prompt at a time is evaluated, so that the network sees the same batches on any number of processes."""
    training = ("logger=csv", "iterations=5", "method.replay_ratio=2")
    evaluation = ("evaluation.small_prompts=2", "evaluation.every=4", "evaluation.batch_size=2")
    return minimal(out, *training, *evaluation, *overrides)


@pytest.fixture(scope="module")
def spread(tmp_path_factory):
    """Five iterations on two processes."""
    out = tmp_path_factory.mktemp("spread") / "out"
    launch(config(out, f"devices={DEVICES}"))
    return out


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Five iterations on one."""
    out = tmp_path_factory.mktemp("alone") / "out"
    work(config(out))
    return out


def result(out):
    return json.loads((out / "result.json").read_text())


def numbers(out):
    return [{key: float(value) for key, value in row.items() if value} for row in rows(out)]


def assert_close_points(a, b):
    assert a["prompts"] == b["prompts"] and a["per_prompt"].keys() == b["per_prompt"].keys()
    for name, values in a["per_prompt"].items():
        assert values == pytest.approx(b["per_prompt"][name], rel=1e-6, abs=1e-6), name


def test_the_same_global_batch_gives_the_same_adapters(alone, spread):
    first, second = adapter(alone), adapter(spread)
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=1e-5)
    moved = max(tensor.abs().max() for name, tensor in first.items() if "lora.up" in name)  # from 0
    assert moved > 5e-4


def test_in_the_micro_batches_of_two_processes_one_gives_the_same_adapters_bit_for_bit(spread, tmp_path):
    work(config(tmp_path / "out", "micro_batch_size=2", "evaluation.every=0"))
    found, expected = adapter(tmp_path / "out"), adapter(spread)
    assert found.keys() == expected.keys()
    assert all(tensor.equal(found[name]) for name, tensor in expected.items())


def test_the_same_rows_are_logged_once(alone, spread):
    assert len(numbers(alone)) == len(numbers(spread)) == 5
    for one, two in zip(numbers(alone), numbers(spread), strict=True):
        assert one == pytest.approx(two, rel=1e-3, abs=1e-5)


def test_an_evaluation_over_two_processes_is_that_of_one(alone, spread, tmp_path):
    """Of the base, and of the very adapter that two processes evaluated."""
    assert_close_points(result(alone)["base"], result(spread)["base"])
    work(config(tmp_path / "out", f"resume={spread / 'checkpoints' / '000005'}"))
    assert_close_points(result(tmp_path / "out")["points"][0], result(spread)["points"][0])


@pytest.mark.slow
def test_what_a_process_meets_is_one_line_of_the_command(tmp_path):
    arguments = ["-m", "rdt.run", "--config-dir", str(failing_reward.config_dir(tmp_path / "conf", "nan", iteration=1))]
    small = ["reward=fragile", "output_dir=out", "logger=csv", "batch_size=8", "model.sampling.num_steps=3",
             "method.replay_ratio=1"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, *arguments, *small, f"devices={DEVICES}", "trainer.checkpoint_every=1"],
        cwd=tmp_path, env=failing_reward.environment(), capture_output=True, text=True,
    )  # fmt: skip
    good = tmp_path / "out" / "checkpoints" / "000001"
    said = f"error: devices=2: reward is nan at iteration 1; last good checkpoint: {good}\n"
    assert done.returncode == 1 and done.stderr == said and good.is_dir()


@pytest.mark.slow
def test_a_terminated_run_saves_and_says_where(tmp_path):
    def stop():
        while not (tmp_path / "out" / "checkpoints" / "000002").is_dir():
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop, daemon=True)
    thread.start()
    with pytest.raises(Terminated, match="stopped by SIGTERM") as stopped:
        launch(config(tmp_path / "out", f"devices={DEVICES}", "iterations=1000", "trainer.checkpoint_every=2"))
    saved = folder.checkpoints(tmp_path / "out")[-1]
    assert f"newest checkpoint: {saved};" in str(stopped.value) and 2 <= int(saved.name) < 1000
