"""Starts the processes of a run: in this process for one device, one process per device through torch's elastic agent.

The config is resolved once and handed over as a file: Lightning's own launcher would run a sweep again on every rank,
with other hyper-parameters.
"""

import logging
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rdt import folder
from rdt.errors import Terminated, UsageError

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


def launch(cfg: DictConfig) -> None:
    """Run the worker on the resolved config; UsageError with its reason where one fails."""
    if cfg.devices * cfg.num_nodes == 1 or "LOCAL_RANK" in os.environ:
        from rdt.worker import work

        work(cfg)
        return
    with tempfile.TemporaryDirectory(prefix="rdt-") as scratch:
        file = Path(scratch) / "config.yaml"
        OmegaConf.save(cfg, file, resolve=True)
        _distributed(cfg, file)


def _distributed(cfg: DictConfig, file: Path) -> None:
    """One process per device; what the first that fails has to say is what the run says."""
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # its account of a failure is fifty lines long
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // cfg.devices)))
    nodes, where = cfg.num_nodes, _rendezvous(cfg)
    config = LaunchConfig(min_nodes=nodes, max_nodes=nodes, nproc_per_node=cfg.devices, max_restarts=0, **where)
    try:
        with _own_handlers():
            elastic_launch(config, sys.executable)("-m", "rdt.worker", str(file))
    except ChildFailedError as error:
        raise UsageError(f"devices={cfg.devices}: {_told(error.get_first_failure()[1])}") from None
    except SignalException as error:
        saved = folder.checkpoints(Path(cfg.output_dir))
        latest = f"newest checkpoint: {saved[-1] if saved else 'none'}"
        raise Terminated(f"stopped by {error.sigval.name}; {latest}; output_dir={cfg.output_dir} goes on") from None


def _told(failure: Any) -> str:
    """What a worker left for its launcher to say."""
    told = failure.error_file_data["message"]
    return told["message"] if isinstance(told, dict) else f"exit status {failure.exitcode} of a process, see above"


@contextmanager
def _own_handlers() -> Iterator[None]:
    """The agent installs signal handlers of its own and leaves them behind."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _rendezvous(cfg: DictConfig) -> dict[str, Any]:
    """One machine finds its own port; several agree through the addresses of the scheduler's environment."""
    if cfg.num_nodes == 1:
        where = {"rdzv_endpoint": "localhost:0", "local_addr": "localhost", "run_id": uuid.uuid4().hex}
    else:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ.get('MASTER_PORT', 29500)}"
        where = {"rdzv_endpoint": address, "run_id": os.environ.get("SLURM_JOB_ID", "rdt")}
    return {"rdzv_backend": "c10d"} | where
