"""The processes of a run on several devices: one per device, started through torch's elastic agent.

The agent is given the config as a resolved file. Lightning's own launcher would run the command line again on every
rank, and a sweep would compose other hyperparameters there.
"""

import ctypes
import json
import logging
import os
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rdt import ranks
from rdt.errors import Terminated, UsageError, one_line
from rdt.training import folder

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1)
PATIENCE = 3.0  # seconds in which the agent ends a process whose peer failed
WATCH_EVERY = 1.0  # seconds between two looks for the launcher
PR_SET_PDEATHSIG = 1  # of linux/prctl.h: the signal that a process gets when its parent dies
OTHERS = ("TORCHELASTIC_RUN_ID", "LOCAL_RANK")  # what torchrun sets in every process that it starts


def check_launcher() -> None:
    """Raise UsageError if torchrun started this process."""
    if all(name in os.environ for name in OTHERS):
        raise UsageError(
            "torchrun started this process, and rdt starts one process per device itself; run `python -m rdt.run ...`"
            " once per machine, with devices=<processes per machine> and num_nodes=<machines>"
        )


def start_per_device(cfg: DictConfig, module: str, *arguments: str) -> bool:
    """Run `python -m <module> <resolved config> <this process> ...` once per device; return whether rank 0 ran here.

    UsageError with the reason of the first failure.
    """
    with tempfile.TemporaryDirectory(prefix="rdt-") as scratch:
        file = Path(scratch) / "config.yaml"
        OmegaConf.save(cfg, file, resolve=True)
        return 0 in _run_agent(cfg, "-m", module, str(file), str(os.getpid()), *arguments)


def take_place(launcher: int) -> None:
    """Take the rank that the agent gave this process, and end when the launcher, a process id, is gone."""
    rank, local, node, world = (int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE"))
    ranks.take(ranks.Ranks(rank, local, node, world))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_end_without, args=(launcher,), daemon=True).start()


def _end_without(launcher: int) -> None:
    """Kill this process once its parent is not the launcher; without one it would train on in secret."""
    while os.getppid() == launcher:
        time.sleep(WATCH_EVERY)
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def reporting() -> Iterator[None]:
    """Leave the reason of a failure of this process to the agent, which reports it once for all processes."""
    try:
        with one_line(_leave_reason):
            yield
    except Exception:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(PATIENCE)  # if this process only lost its peer, the agent ends it now and reports the peer's reason
        raise


def _run_agent(cfg: DictConfig, *arguments: str) -> dict[int, Any]:
    """Run a command once per device, and return an entry for each rank that ran on this machine."""
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in list(logging.root.manager.loggerDict):  # they print fifty lines about a failure, each at its own level
        if name.startswith("torch.distributed"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // cfg.devices)))
    nodes, meeting = cfg.num_nodes, _rendezvous(cfg)
    handled = ",".join(number.name for number in SIGNALS)
    config = LaunchConfig(
        min_nodes=nodes, max_nodes=nodes, nproc_per_node=cfg.devices, max_restarts=0, signals_to_handle=handled,
        **meeting,
    )  # fmt: skip
    try:
        with _restored_handlers():
            return elastic_launch(config, sys.executable)(*arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        raise UsageError(f"devices={cfg.devices}: {_reason(rank, failure, cfg)}") from None
    except SignalException as error:
        raise Terminated(f"stopped by {error.sigval.name}; {_continuation(cfg)}") from None


@contextmanager
def _restored_handlers() -> Iterator[None]:
    """Restore this process's signal handlers afterwards; the agent replaces them."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _rendezvous(cfg: DictConfig) -> dict[str, Any]:
    """Return where the processes meet: at a free port of one machine, or at the address in the environment."""
    if cfg.num_nodes == 1:
        where = {"rdzv_endpoint": "localhost:0", "local_addr": "localhost", "run_id": uuid.uuid4().hex}
    else:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ.get('MASTER_PORT', 29500)}"
        where = {"rdzv_endpoint": address, "run_id": os.environ.get("SLURM_JOB_ID", "rdt")}
    return {"rdzv_backend": "c10d"} | where


def _leave_reason(line: str) -> None:
    """Write the reason of a failure to the file in which the agent looks for it."""
    reason = {"message": line, "extraInfo": {"timestamp": int(time.time())}}
    Path(os.environ["TORCHELASTIC_ERROR_FILE"]).write_text(json.dumps({"message": reason}), encoding="utf-8")


def _reason(rank: int, failure: Any, cfg: DictConfig) -> str:
    """Return the reason that a failed process left, or the signal or exit status with which it ended."""
    message = failure.error_file_data["message"]
    if isinstance(message, dict):
        return str(message["message"])
    if failure.exitcode >= 0:
        return f"rank {rank} exited with status {failure.exitcode}; {_continuation(cfg)}"
    name = signal.Signals(-failure.exitcode).name
    cause = ", most often because the machine ran out of memory" if name == "SIGKILL" else ""
    return f"rank {rank} was killed by {name}{cause}; {_continuation(cfg)}"


def _continuation(cfg: DictConfig) -> str:
    """Return which checkpoint is the newest, and how the run continues from it."""
    newest = folder.newest_checkpoint(Path(cfg.output_dir)) or "none"
    return f"newest checkpoint: {newest}; start again with output_dir={cfg.output_dir} to continue"
