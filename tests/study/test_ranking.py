"""Bradley and Terry's strengths are recovered from votes, and a setting that won every vote has a finite one."""

from datetime import datetime

import numpy as np
import pytest

from rdt.study.ranking import ranking, ranking_csv, strengths
from rdt.study.votes import Vote

NAMES = ["base", "a", "b"]


def votes_of(rng, raters, each, true):
    """Return a key and votes that raters drew from true strengths."""
    key = {"questions": ["overall"], "settings": NAMES, "pairs": []}
    votes = {f"rater {r}": {} for r in range(raters)}
    for k in range(raters * each):
        left, right = rng.choice(3, 2, replace=False)
        key["pairs"].append({"id": f"{k}", "left": {"setting": NAMES[left]}, "right": {"setting": NAMES[right]}})
        won = rng.random() < 1 / (1 + np.exp(true[right] - true[left]))
        vote = Vote(f"{k}", datetime(2026, 1, 1), {"overall": "left" if won else "right"}, 2.0)
        votes[f"rater {k % raters}"][f"{k}"] = vote
    return key, votes


def test_strengths_are_recovered_with_intervals_that_cover_them():
    true, rng, hits = np.array([-0.8, 0.1, 0.7]), np.random.default_rng(0), []
    for _ in range(40):
        ranks = ranking(*votes_of(rng, 15, 30, true))
        hits += [rank.strength.lo < true[NAMES.index(rank.setting)] < rank.strength.hi for rank in ranks]
    assert [rank.setting for rank in ranks] == ["b", "a", "base"] and 0.88 < np.mean(hits) < 0.99
    for rank in ranks:
        assert rank.strength.mean == pytest.approx(true[NAMES.index(rank.setting)], abs=0.35)
    assert ranking_csv(ranks).splitlines()[0] == "question,setting,votes,strength,strength_lo,strength_hi"


def test_two_settings_have_the_log_odds_of_their_votes():
    wins = np.array([[[0.0, 3000.0], [1000.0, 0.0]]])
    found = strengths(wins)[0]
    assert found[0] - found[1] == pytest.approx(np.log(3), abs=1e-3) and found.sum() == pytest.approx(0)


def test_a_setting_that_won_every_vote_has_a_finite_strength():
    wins = np.zeros((1, 3, 3))
    wins[0, 0, 1] = wins[0, 0, 2] = wins[0, 1, 2] = 10
    found = strengths(wins)[0]
    assert np.isfinite(found).all() and found[0] > found[1] > found[2]


def test_one_rater_has_intervals_over_votes():
    key, votes = votes_of(np.random.default_rng(1), 1, 60, np.array([-1.0, 0.0, 1.0]))
    assert all(rank.strength.lo < rank.strength.hi for rank in ranking(key, votes))
