"""A run that was stopped, killed or finished continues bit for bit, or one line says why it cannot."""

import sys

import pytest
import torch

from rdt import result, run
from rdt.errors import Terminated
from rdt.rewards.contract import RewardError
from rdt.training import digests, folder
from rdt.training.launch import work
from worlds import children, failing_reward
from worlds.smallest_run import adapter, minimal, rows


def config(out, *overrides):
    return minimal(out, "logger=csv", "method.replay_ratio=1", "iterations=4", "trainer.checkpoint_every=2", *overrides)


def eventful(out, event, iteration):
    """Return the config of a run to which `event` happens in an iteration, counted from 0."""
    cfg = config(out)
    cfg.reward = {
        **cfg.reward,
        "_target_": "worlds.failing_reward.hps",
        "event": event,
        "iteration": iteration,
    }
    return cfg


def same(a, b):
    """Return whether nested tensors and values are equal bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def assert_equal_runs(a, b):
    """Assert the same adapter, metrics, replay buffer, optimiser state, cost and evaluation."""
    assert same(adapter(a), adapter(b))
    assert rows(a) == rows(b) and [row["iteration"] for row in rows(a)] == ["0", "1", "2", "3"]
    states = [torch.load(folder.checkpoints(out)[-1] / "run.ckpt", weights_only=True) for out in (a, b)]
    for part in ("state_dict", "buffer", "optimizer_states", "progress"):
        assert same(states[0][part], states[1][part]), part
    first, second = result.read(a), result.read(b)
    assert (first.points, first.base, first.iterations) == (second.points, second.base, second.iterations)
    assert first.compute["network_passes"] == second.compute["network_passes"]


def names(out):
    return [path.name for path in (out / "checkpoints").iterdir()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the folder of a run of four iterations without interruption."""
    out = tmp_path_factory.mktemp("whole") / "out"
    work(config(out))
    return out


def test_a_run_that_failed_continues_bit_for_bit(whole, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(RewardError, match="the machine is gone"):
        work(eventful(out, "fail", iteration=3))
    assert names(out) == ["000002"] and len(rows(out)) == 3 and not (out / "result.json").exists()
    work(config(out))
    assert_equal_runs(out, whole)


def test_a_terminated_run_saves_a_checkpoint_and_continues_bit_for_bit(whole, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(Terminated) as stopped:
        work(eventful(out, "terminate", iteration=2))
    assert str(out / "checkpoints" / "000003") in str(stopped.value) and "SIGTERM" in str(stopped.value)
    assert "\n" not in str(stopped.value) and len(rows(out)) == 3
    work(config(out))
    assert_equal_runs(out, whole)


@pytest.mark.slow
def test_a_finished_run_continues_with_more_iterations_bit_for_bit(whole, tmp_path):
    out = tmp_path / "out"
    work(config(out, "iterations=2"))
    work(config(out))
    assert_equal_runs(out, whole)
    before = result.read(out).points
    work(config(out))  # once more, with nothing left to train
    assert_equal_runs(out, whole)
    assert result.read(out).points == before


def test_a_named_checkpoint_can_be_continued_in_another_folder(whole, tmp_path):
    out = tmp_path / "out"
    work(config(out, f"resume={whole / 'checkpoints' / '000002'}"))
    assert rows(out) == rows(whole)[2:]
    assert same(adapter(out), adapter(whole))


@pytest.mark.slow
def test_resume_never_starts_over(whole, tmp_path):
    out = tmp_path / "out"
    work(config(out, "iterations=2", "seed=1"))
    work(config(out, "resume=never"))
    assert_equal_runs(out, whole)


@pytest.mark.slow
def test_a_killed_run_continues_bit_for_bit(whole, tmp_path):
    out = tmp_path / "out"
    script = f"from training import test_resume; test_resume.work(test_resume.eventful({str(out)!r}, 'kill', 3))"
    done = children.run([sys.executable, "-c", script], env=failing_reward.environment(), text=False)
    assert done.returncode == -9 and names(out) == ["000002"] and len(rows(out)) >= 2
    work(config(out))
    assert_equal_runs(out, whole)


def test_a_reward_that_is_not_a_number_stops_the_run_in_one_line(tmp_path, monkeypatch, capsys):
    """The reward is a user's own, in a config folder of the user."""
    conf = failing_reward.config_dir(tmp_path / "conf", "nan", iteration=3)
    monkeypatch.chdir(tmp_path)
    arguments = ["reward=fragile", "output_dir=out", "logger=csv", "batch_size=4", "trainer.checkpoint_every=2"]
    small = ["method.replay_ratio=1", "model.sampling.num_steps=3", "evaluation.every=0"]
    monkeypatch.setattr(sys, "argv", ["rdt", "--config-dir", str(conf), *arguments, *small])
    with pytest.raises(SystemExit) as stop:
        run.entry()
    err = capsys.readouterr().err
    good = tmp_path / "out" / "checkpoints" / "000002"
    assert stop.value.code == 1 and err.count("\n") == 1
    assert "reward is nan at iteration 3" in err and f"last good checkpoint: {good}" in err and good.is_dir()


def test_a_run_ends_once_its_passes_are_spent_and_stays_ended(whole, tmp_path):
    out = tmp_path / "out"
    passes = result.read(whole).compute["passes_per_iteration"]
    for _ in range(2):  # the second run finds them spent
        work(config(out, f"max_passes={int(1.5 * passes)}"))
        found = result.read(out)
        assert found.iterations == 2 and names(out) == ["000002"]
        assert [row["iteration"] for row in rows(out)] == ["0", "1"] and rows(out) == rows(whole)[:2]
        assert found.compute["network_passes"] + found.compute["backward_passes"] == 2 * passes


@pytest.mark.slow
def test_a_continued_run_adds_up_the_seconds_of_both_parts(tmp_path):
    out = tmp_path / "out"
    work(config(out))
    saved = folder.checkpoints(out)[-1] / "run.ckpt"
    state = torch.load(saved, weights_only=True)
    assert 0 < state["seconds"] < result.read(out).compute["seconds"]
    torch.save(state | {"seconds": 1e6}, saved)
    digests.seal(saved.parent, 4, digests.identity(config(out)))
    work(config(out, "iterations=5"))
    assert result.read(out).compute["seconds"] > 1e6
