"""metrics.csv is complete whenever it is read, and a resumed run continues it."""

import csv

from rdt.training.loggers import SAVED_EVERY, Metrics, read_rows


def test_metrics_are_saved_as_they_grow_and_continued(tmp_path):
    first = Metrics(tmp_path, {})
    for step in range(SAVED_EVERY):
        first.log_metrics({"train/reward": step / 2, "epoch": 0}, step=step)
    second = Metrics(tmp_path, read_rows(first.file))  # of a resumed run, from iteration 3 on
    second.drop_from(3)
    second.log_metrics({"train/reward": 7.0, "eval/vendi": 2.0}, step=3)
    second.save()
    with (tmp_path / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["iteration", "train/reward", "eval/vendi"] and len(rows) == 4
    assert rows[3] == {"iteration": "3", "train/reward": "7.0", "eval/vendi": "2.0"}
