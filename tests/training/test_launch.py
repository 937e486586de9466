"""A run on two processes has the adapter and evaluation of one process, and a failing process gives one line."""

import os
import re
import signal
import sys
import threading

import pytest
import torch

from rdt import result
from rdt.errors import Terminated, UsageError
from rdt.training import folder
from rdt.training.launch import build, launch, work
from worlds import children, failing_reward
from worlds.smallest_run import adapter, minimal, rows

DEVICES = 2


def config(out, *overrides):
    """Return a config that evaluates one prompt at a time, so that batches do not depend on the number of processes."""
    training = ("logger=csv", "iterations=5", "method.replay_ratio=2")
    training += ("model.adam_eps=1e-5",)  # at 1e-8 Adam turns rounding of the smallest gradients into whole steps
    evaluation = ("evaluation.small_prompts=2", "evaluation.every=4", "evaluation.batch_size=2")
    return minimal(out, *training, *evaluation, *overrides)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Return the folder of a run of five iterations on two processes."""
    out = tmp_path_factory.mktemp("two") / "out"
    launch(config(out, f"devices={DEVICES}"))
    return out


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """Return the folder of a run of five iterations on one process."""
    out = tmp_path_factory.mktemp("one") / "out"
    work(config(out))
    return out


def numbers(out):
    return [{key: float(value) for key, value in row.items() if value} for row in rows(out)]


def assert_close_points(a, b):
    assert a.prompts == b.prompts and a.per_prompt.keys() == b.per_prompt.keys()
    for name, values in a.per_prompt.items():
        assert values == pytest.approx(b.per_prompt[name], rel=1e-6, abs=1e-6), name


def test_the_same_global_batch_gives_the_same_adapter(one, two):
    first, second = adapter(one), adapter(two)
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=1e-5)
    moved = max(tensor.abs().max() for name, tensor in first.items() if "lora_B" in name)  # from 0
    assert moved > 5e-4


def test_one_process_with_the_micro_batches_of_two_gives_their_adapter_bit_for_bit(two, tmp_path):
    work(config(tmp_path / "out", "micro_batch_size=2", "evaluation.every=0"))
    found, expected = adapter(tmp_path / "out"), adapter(two)
    assert found.keys() == expected.keys()
    assert all(tensor.equal(found[name]) for name, tensor in expected.items())


def test_every_row_of_metrics_is_logged_once(one, two):
    assert len(numbers(one)) == len(numbers(two)) == 5
    for first, second in zip(numbers(one), numbers(two), strict=True):
        assert first == pytest.approx(second, rel=1e-3, abs=1e-5)


def test_two_processes_evaluate_as_one_does(one, two, tmp_path):
    """Both the base and the adapter that two processes trained are evaluated."""
    assert_close_points(result.read(one).base, result.read(two).base)
    work(config(tmp_path / "out", f"resume={two / 'checkpoints' / '000005'}"))
    assert_close_points(result.read(tmp_path / "out").tuned, result.read(two).tuned)


def test_rollouts_that_do_not_divide_over_the_devices_are_refused_before_anything_is_written(tmp_path):
    cfg = minimal(tmp_path / "out", "method=drift", "method.group=3", "method.keep=2", "batch_size=3", "devices=2")
    with pytest.raises(UsageError, match="batch_size=3 makes 3 rollouts for 2 devices; take batch_size=6"):
        build(cfg)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_error_of_a_process_is_one_line_of_the_command(tmp_path):
    arguments = ["-m", "rdt.run", "--config-dir", str(failing_reward.config_dir(tmp_path / "conf", "nan", iteration=1))]
    small = ["reward=fragile", "output_dir=out", "logger=csv", "batch_size=8", "model.sampling.num_steps=3",
             "method.replay_ratio=1"]  # fmt: skip
    done = children.run(
        [sys.executable, *arguments, *small, f"devices={DEVICES}", "trainer.checkpoint_every=1"],
        cwd=tmp_path, env=failing_reward.environment(),
    )  # fmt: skip
    good = tmp_path / "out" / "checkpoints" / "000001"
    scored = r"reward=fragile scored image \d of the prompt '[^\n]+' as nan"
    line = rf"error: devices=2: reward is nan at iteration 1: {scored}; last good checkpoint: {re.escape(str(good))}\n"
    assert done.returncode == 1 and re.fullmatch(line, done.stderr) and good.is_dir(), done.stderr


@pytest.mark.slow
def test_a_terminated_run_saves_a_checkpoint_and_names_it(tmp_path):
    def stop():
        children.until((tmp_path / "out" / "checkpoints" / "000002").is_dir)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop, daemon=True)
    thread.start()
    with pytest.raises(Terminated, match="stopped by SIGTERM") as stopped:
        launch(config(tmp_path / "out", f"devices={DEVICES}", "iterations=1000", "trainer.checkpoint_every=2"))
    saved = folder.checkpoints(tmp_path / "out")[-1]
    assert f"newest checkpoint: {saved};" in str(stopped.value) and 2 <= int(saved.name) < 1000
