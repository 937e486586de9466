"""Progress says what is done, what is left and when, in plain lines without a terminal."""

import re
import time

import pytest
from omegaconf import OmegaConf

from rdt.evaluation import Evaluator, Protocol
from rdt.rollout import Sampling
from rdt.training import progress, sweep
from rdt.training.progress import ProgressLine, clock, evaluating
from worlds import tiny_policy


def test_without_a_terminal_lines_are_printed_even_while_a_step_lasts(capsys):
    with ProgressLine("evaluation", 4, quiet=0.05) as shown:
        shown.advance(1, "hps 0.2")
        time.sleep(0.4)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "evaluation 0 of 4, 0:00 so far" and len(lines) >= 4
    assert re.fullmatch(r"evaluation 1 of 4, 0:00 so far, 0:0\d left: hps 0.2", lines[-1]), lines


def test_many_short_steps_print_no_line_each(capsys):
    with ProgressLine("iteration", 1000) as shown:
        for done in range(1000):
            shown.advance(done + 1)
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_resumed_run_estimates_from_its_own_iterations(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    shown = ProgressLine("iteration", 100)
    shown.begin_at(80)
    now[0] = 30.0
    shown.done = 90
    assert shown.line() == "iteration 90 of 100, 0:30 so far, 0:30 left"


def test_an_evaluation_counts_each_prompt_once_for_each_model(capsys):
    policy, prompts = tiny_policy.policy(), tiny_policy.PROMPTS[:2]
    protocol = Protocol(prompts, 3, 0, 6, seed=0, grid=(2, 2))
    evaluator = Evaluator(protocol, {"bright": tiny_policy.Brightness()}, [], [])
    views = {"base": policy.base, "tuned": policy.tuned}
    with evaluating(evaluator, len(views), rank=0, world=1):
        evaluator.run(policy, views, policy.base, Sampling(4, 1.0, 3.0), 0, 1)
    assert [line.partition(",")[0] for line in capsys.readouterr().out.splitlines()] == [
        "evaluation 0 of 4", "evaluation 4 of 4",
    ]  # fmt: skip
    with evaluating(evaluator, len(views), rank=1, world=2):  # rank 0 speaks for all
        assert capsys.readouterr().out == ""


@pytest.mark.parametrize("seconds, words", [(0, "0:00"), (61, "1:01"), (3700, "1:01:40")])
def test_a_duration_has_hours_only_if_it_lasts_them(seconds, words):
    assert clock(seconds) == words


def test_a_job_of_a_sweep_is_named_by_its_number_and_what_varies(monkeypatch):
    hydra = {"sweeper": {"_target_": "hydra._internal.BasicSweeper", "params": {"method.kl_coef": "0,0.3"}},
             "overrides": {"task": ["method=draft_plus,sqdf", "iterations=10"]}}  # fmt: skip
    counts = sweep.swept(OmegaConf.create(hydra))
    assert counts == {"method.kl_coef": 2, "method": 2}
    monkeypatch.setattr(sweep.SweepReport, "counts", counts)
    cfg = OmegaConf.create({"method": {"name": "draft_plus"}, "overrides": ["method=draft_plus", "method.kl_coef=0.3"]})
    assert sweep.job_name(cfg, 1) == "job 2/4 draft_plus kl_coef=0.3"
    hydra["sweeper"]["_target_"] = "somewhere.Searcher"
    assert sweep.swept(OmegaConf.create(hydra)) == {}
