"""The processes of a run on several devices: one per device, started through torch's elastic agent.

The agent is given the config as a resolved file. Lightning's own launcher would run the command line again on every
rank, and a sweep would compose other hyperparameters there.
"""

import json
import logging
import os
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rdt.errors import Terminated, UsageError, one_line
from rdt.training import folder

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
PATIENCE = 3.0  # seconds in which the agent ends a process whose peer failed


def start_per_device(cfg: DictConfig, module: str) -> None:
    """Run `python -m <module> <resolved config>` once per device; UsageError with the reason of the first failure."""
    with tempfile.TemporaryDirectory(prefix="rdt-") as scratch:
        file = Path(scratch) / "config.yaml"
        OmegaConf.save(cfg, file, resolve=True)
        _run_agent(cfg, "-m", module, str(file))


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


def _run_agent(cfg: DictConfig, *arguments: str) -> None:
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # it prints fifty lines about a failure
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // cfg.devices)))
    nodes, meeting = cfg.num_nodes, _rendezvous(cfg)
    config = LaunchConfig(min_nodes=nodes, max_nodes=nodes, nproc_per_node=cfg.devices, max_restarts=0, **meeting)
    try:
        with _restored_handlers():
            elastic_launch(config, sys.executable)(*arguments)
    except ChildFailedError as error:
        raise UsageError(f"devices={cfg.devices}: {_reason(error.get_first_failure()[1])}") from None
    except SignalException as error:
        newest = folder.newest_checkpoint(Path(cfg.output_dir)) or "none"
        raise Terminated(
            f"stopped by {error.sigval.name}; newest checkpoint: {newest};"
            f" start again with output_dir={cfg.output_dir} to continue"
        ) from None


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


def _reason(failure: Any) -> str:
    """Return the reason that a failed process left, or its exit status if it left none."""
    message = failure.error_file_data["message"]
    return message["message"] if isinstance(message, dict) else f"a process exited with status {failure.exitcode}"
