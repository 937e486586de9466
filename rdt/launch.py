"""Starts the processes of a run: in this process for one device, one process per device through torch's elastic agent.

The config is resolved once and handed over as a file: Lightning's own launcher would run a sweep again on every rank,
with other hyper-parameters.
"""

import logging
import os
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rdt import folder
from rdt.errors import Terminated, UsageError


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
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # its account of a failure is fifty lines long
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // cfg.devices)))
    config = LaunchConfig(
        min_nodes=cfg.num_nodes, max_nodes=cfg.num_nodes, nproc_per_node=cfg.devices, max_restarts=0, **_rendezvous(cfg)
    )  # fmt: skip
    try:
        elastic_launch(config, sys.executable)("-m", "rdt.worker", str(file))
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        told = failure.error_file_data["message"]
        reason = told["message"] if isinstance(told, dict) else f"exit status {failure.exitcode}, see above"
        raise UsageError(f"devices={cfg.devices}: {reason}") from None
    except SignalException as error:
        saved = folder.checkpoints(Path(cfg.output_dir))
        raise Terminated(
            f"stopped by {error.sigval.name}; newest checkpoint: {saved[-1] if saved else 'none'};"
            f" output_dir={cfg.output_dir} goes on from there"
        ) from None


def _rendezvous(cfg: DictConfig) -> dict[str, Any]:
    """One machine finds its own port; several agree through the addresses of the scheduler's environment."""
    if cfg.num_nodes == 1:
        where = {"rdzv_endpoint": "localhost:0", "local_addr": "localhost", "run_id": uuid.uuid4().hex}
    else:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ.get('MASTER_PORT', 29500)}"
        where = {"rdzv_endpoint": address, "run_id": os.environ.get("SLURM_JOB_ID", "rdt")}
    return {"rdzv_backend": "c10d"} | where
