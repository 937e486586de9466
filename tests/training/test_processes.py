"""The processes of a run take their ranks from rdt alone, end with their launcher, and say how one of them ended."""

import os
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from lightning.pytorch.utilities import rank_zero_only
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from rdt import ranks
from rdt.errors import UsageError
from rdt.training import processes
from rdt.training.environment import LaunchedEnvironment
from rdt.training.launch import work
from worlds import children, failing_reward
from worlds.smallest_run import OVERRIDES, minimal, rows

STRAY = {
    "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "NODE_RANK": "1", "GROUP_RANK": "1", "SLURM_PROCID": "1",
    "SLURM_LOCALID": "1", "SLURM_NODEID": "1", "SLURM_NTASKS": "2", "SLURM_JOB_NAME": "train", "SLURM_JOB_ID": "1",
    "MASTER_ADDR": "nosuch", "MASTER_PORT": "1",
}  # fmt: skip
PARENT = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], str(os.getpid())], stdout=sys.stdout)
sys.stdin.read()
"""
WORKER = """
import os, sys, time
os.environ |= {"RANK": "1", "LOCAL_RANK": "1", "GROUP_RANK": "0", "WORLD_SIZE": "2"}
from rdt import ranks
from rdt.training import processes
processes.take_place(int(sys.argv[1]))
print(ranks.here().rank, ranks.here().world, flush=True)
time.sleep(1000)
"""


def test_variables_of_other_launchers_do_not_count(tmp_path, monkeypatch):
    for name, value in STRAY.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(rank_zero_only, "rank", 1)  # as Lightning guesses it on import
    work(minimal(tmp_path, "logger=csv"))
    assert len(rows(tmp_path)) == 2 and (tmp_path / "result.json").is_file() and rank_zero_only.rank == 0


def test_lightning_gets_the_place_that_the_launcher_gave(monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 0)
    monkeypatch.setattr(ranks, "_here", ranks.Ranks(rank=3, local=1, node=1, world=4))
    environment = LaunchedEnvironment()
    assert (environment.local_rank(), environment.node_rank(), rank_zero_only.rank) == (1, 1, 3)
    assert environment.creates_processes_externally


def test_torchrun_is_refused_in_one_line(monkeypatch):
    processes.check_launcher()
    monkeypatch.setenv("LOCAL_RANK", "0")
    processes.check_launcher()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with pytest.raises(UsageError, match=r"^torchrun started this process.* devices=<processes per machine>.*$"):
        processes.check_launcher()


def test_a_worker_ends_with_its_launcher(tmp_path):
    command = [sys.executable, "-c", PARENT, WORKER]
    with children.started(command, env=failing_reward.environment()) as launcher:
        assert launcher.stdout.readline() == "1 2\n"
        launcher.send_signal(signal.SIGKILL)
        assert launcher.stdout.read() == ""  # returns once the worker, which holds the pipe too, has ended


@pytest.mark.parametrize(
    ("exitcode", "words"),
    [
        (-9, "rank 1 was killed by SIGKILL, most often because the machine ran out of memory; newest checkpoint: "),
        (-6, "rank 1 was killed by SIGABRT; newest checkpoint: "),
        (3, "rank 1 exited with status 3; newest checkpoint: "),
    ],
)
def test_a_process_without_a_reason_is_described_by_how_it_ended(tmp_path, exitcode, words):
    newest = tmp_path / "checkpoints" / "000004"
    newest.mkdir(parents=True)
    failure = ProcessFailure(local_rank=1, pid=7, exitcode=exitcode, error_file=str(tmp_path / "nosuch"))
    line = processes._reason(1, failure, minimal(tmp_path))
    assert line == f"{words}{newest}; start again with output_dir={tmp_path} to continue"


@pytest.mark.slow
def test_a_killed_rank_is_one_line(tmp_path):
    """The other rank only loses its peer, which is no reason worth a line."""
    conf = failing_reward.config_dir(tmp_path / "conf", "kill", iteration=1)
    arguments = ["-m", "rdt.run", "--config-dir", str(conf), "reward=fragile", "output_dir=out", "logger=csv"]
    small = ["batch_size=8", "model.sampling.num_steps=3", "method.replay_ratio=1", "trainer.checkpoint_every=1"]
    done = children.run(
        [sys.executable, *arguments, *small, "devices=2"],
        cwd=tmp_path, env=failing_reward.environment() | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert "was killed by SIGKILL, most often because" in done.stderr
    assert f"newest checkpoint: {tmp_path / 'out' / 'checkpoints' / '000001'};" in done.stderr
    assert not os.path.exists(tmp_path / "out" / ".lock")


@pytest.mark.slow
def test_of_two_nodes_the_first_reports_alone(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "rdt.run", *OVERRIDES, "logger=csv", "num_nodes=2", "output_dir=out"]
    with ThreadPoolExecutor() as pool:
        ends = pool.map(lambda _: children.run(command, cwd=tmp_path, env=os.environ | meeting), range(2))
        silent, talking = sorted(ends, key=lambda done: len(done.stdout))
    assert (silent.returncode, talking.returncode) == (0, 0), silent.stderr + talking.stderr
    assert "report" in talking.stdout and "Epoch" not in silent.stdout and "report" not in silent.stdout
    assert (tmp_path / "out/result.json").is_file() and len(list(tmp_path.iterdir())) == 1
