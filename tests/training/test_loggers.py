"""metrics.csv is complete whenever it is read, a resumed run continues it, and damage to it is repaired with a word."""

import csv
import shutil

import pytest

from rdt.errors import UsageError
from rdt.training.loggers import SAVED_EVERY, Metrics, kept_rows, read_metrics


def test_metrics_are_saved_as_they_grow_and_continued(tmp_path):
    first = Metrics(tmp_path, {})
    for step in range(SAVED_EVERY):
        first.log_metrics({"train/reward": step / 2, "epoch": 0}, step=step)
    second = Metrics(tmp_path, read_metrics(first.file))  # of a resumed run, from iteration 3 on
    second.drop_from(3)
    second.log_metrics({"train/reward": 7.0, "eval/vendi": 2.0}, step=3)
    second.save()
    with (tmp_path / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["iteration", "train/reward", "eval/vendi"] and len(rows) == 4
    assert rows[3] == {"iteration": "3", "train/reward": "7.0", "eval/vendi": "2.0"}


def logged(out):
    """Log two iterations of a run with a checkpoint after them, and return the checkpoint's file."""
    metrics = Metrics(out, {})
    for step in range(2):
        metrics.log_metrics({"train/reward": step / 2}, step=step)
    metrics.save()
    (out / "checkpoints" / "000002").mkdir(parents=True)
    shutil.copyfile(metrics.file, out / "checkpoints" / "000002" / "metrics.csv")
    return out / "checkpoints" / "000002" / "run.ckpt"


@pytest.mark.parametrize(
    "damaged",
    [b"", b"iteration,train/reward\n0,0.0\n", b"\xff\xdd", b"a" * 200_000, b'iteration\n"', None],
    ids=range(6),
)
def test_damaged_metrics_are_restored_from_the_checkpoint_with_a_word(tmp_path, capsys, damaged):
    start = logged(tmp_path)
    assert kept_rows(tmp_path, start) == read_metrics(start.with_name("metrics.csv")) and capsys.readouterr().err == ""
    if damaged is None:
        (tmp_path / "metrics.csv").unlink()
    else:
        (tmp_path / "metrics.csv").write_bytes(damaged)
    assert [row["train/reward"] for row in kept_rows(tmp_path, start).values()] == ["0.0", "0.5"]
    warned = capsys.readouterr().err
    assert warned.count("\n") == 1 and f"{tmp_path / 'metrics.csv'} was damaged or missing" in warned
    assert kept_rows(tmp_path, None) == {} == kept_rows(tmp_path / "other", start)


def test_damaged_metrics_that_no_checkpoint_holds_are_refused_by_name(tmp_path):
    (tmp_path / "metrics.csv").write_bytes(b"\xff")
    with pytest.raises(UsageError, match=rf"^{tmp_path / 'metrics.csv'} is damaged: UnicodeDecodeError"):
        kept_rows(tmp_path, tmp_path / "elsewhere" / "000002" / "run.ckpt")


def test_a_slow_run_is_saved_without_waiting_for_many_rows(tmp_path, monkeypatch):
    metrics = Metrics(tmp_path, {})
    metrics.log_metrics({"train/reward": 1.0}, step=0)
    assert not metrics.file.is_file()
    monkeypatch.setattr("rdt.training.loggers.PATIENCE", -1.0)
    metrics.log_metrics({"train/reward": 2.0}, step=1)
    assert [row["train/reward"] for row in read_metrics(metrics.file).values()] == ["1.0", "2.0"]
