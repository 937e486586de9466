"""A folder belongs to one process at a time: a second one reads who holds it, and a killed one holds it no longer."""

import os
import signal
import socket
import sys

import pytest

from rdt.errors import UsageError
from rdt.training import lock
from worlds import children, failing_reward

HOLD = """
import sys
from pathlib import Path
from rdt.training import lock
with lock.held("output_dir", Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path):
    """Return another process that holds the lock of tmp_path/out."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "out")]
    with children.started(command, env=failing_reward.environment()) as process:
        assert process.stdout.readline() == "held\n"
        yield process


def test_a_second_process_reads_who_holds_the_lock(other, tmp_path):
    who = f"process {other.pid} on {socket.gethostname()}"
    words = rf"^output_dir=\S+/out is in use by {who} since \d{{4}}-\S+ \S+; wait"
    with pytest.raises(UsageError, match=words), lock.held("output_dir", tmp_path / "out"):
        raise AssertionError("the lock was given twice")
    assert f"process {other.pid} on " in lock.holder(tmp_path / "out")
    assert lock.is_taken(tmp_path / "out")


def test_the_lock_of_a_killed_process_is_taken_over(other, tmp_path):
    other.send_signal(signal.SIGKILL)
    other.wait(children.PATIENCE)
    assert (tmp_path / "out" / lock.FILE).is_file() and lock.holder(tmp_path / "out") is None
    with lock.held("output_dir", tmp_path / "out"):
        assert f"process {os.getpid()} on " in (lock.holder(tmp_path / "out") or "")
        assert not lock.is_taken(tmp_path / "out")
    assert lock.holder(tmp_path / "out") is None


def test_a_fresh_folder_gets_a_number_if_its_name_is_taken(tmp_path):
    with lock.held("output_dir", tmp_path / "a", fresh=True) as first, lock.held("output_dir", first, True) as second:
        assert (first, second) == (tmp_path / "a", tmp_path / "a-2")
        (second / "config.yaml").touch()
        with lock.held("output_dir", first, fresh=True) as third:
            assert third == tmp_path / "a-3"
    assert [path.name for path in tmp_path.iterdir()] == ["a-2"]  # the others stayed empty


def test_a_run_that_writes_nothing_leaves_no_folder(tmp_path):
    with pytest.raises(ValueError, match="refused"), lock.held("output_dir", tmp_path / "a" / "b"):
        raise ValueError("refused")
    assert not list(tmp_path.iterdir())
    (tmp_path / "own").mkdir()
    with lock.held("output_dir", tmp_path / "own"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["own"]
