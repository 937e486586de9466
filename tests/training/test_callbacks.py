"""The progress bar shows the headline scores of a small evaluation."""

from rdt.training.callbacks import by_short_name, headline


def test_the_progress_bar_shows_the_first_unseen_reward_and_the_first_diversity():
    scores = {"reward/hps": 1.0, "reward/gold": 2.0, "reward/judge": 3.0, "diversity/entropy": 4.0, "diversity/b": 5.0}
    assert headline(scores, "hps") == {"reward/gold": 2.0, "diversity/entropy": 4.0}
    assert headline({"reward/hps": 1.0, "kl_nats": 2.0}, "hps") == headline({}, "hps") == {}
    assert by_short_name({"reward/gold": 2.0, "kl_nats": 1.0}) == {"gold": 2.0, "kl_nats": 1.0}
