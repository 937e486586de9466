"""Starts the processes of a run: in this process for one device, through torch.distributed.run for several.

The config is resolved once and handed over as a file: Lightning's own launcher would run a sweep again on every rank, with
other hyper-parameters.
"""

import os
import subprocess
import sys
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from rdt.errors import UsageError


def launch(cfg: DictConfig, out: Path) -> None:
    """Write config.yaml into `out` and run the worker on it; UsageError if a worker fails."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / "config.yaml"
    temporary = file.with_suffix(".tmp")
    OmegaConf.save(cfg, temporary, resolve=True)
    temporary.replace(file)
    if cfg.devices * cfg.num_nodes == 1 or "LOCAL_RANK" in os.environ:
        from rdt.worker import work

        work(OmegaConf.load(file))
        return
    command = [sys.executable, "-m", "torch.distributed.run", *_rendezvous(cfg), "-m", "rdt.worker", str(file)]
    environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", _threads(cfg.devices))}
    done = subprocess.run(command, env=environment, check=False)
    if done.returncode:
        raise UsageError(f"devices={cfg.devices}: a worker failed with exit status {done.returncode}; its error stands above")


def _rendezvous(cfg: DictConfig) -> list[str]:
    """One machine finds its own port; several agree through the addresses of the scheduler's environment."""
    if cfg.num_nodes == 1:
        return ["--standalone", f"--nproc-per-node={cfg.devices}"]
    address = f"{os.environ['MASTER_ADDR']}:{os.environ.get('MASTER_PORT', 29500)}"
    return [f"--nnodes={cfg.num_nodes}", f"--nproc-per-node={cfg.devices}", "--rdzv-backend=c10d", f"--rdzv-endpoint={address}"]


def _threads(devices: int) -> str:
    return str(max(1, (os.cpu_count() or 1) // devices))
