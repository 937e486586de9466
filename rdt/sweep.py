"""The report at the end of a multirun, drawn over every job that left a result, also where others failed."""

import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class SweepReport(Callback):
    """Hydra tells where the sweep is; the report is drawn when all jobs have ended."""

    folder: Path | None = None

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Remember the sweep's folder."""
        SweepReport.folder = Path(config.hydra.sweep.dir)

    @staticmethod
    def draw() -> None:
        """The report over the sweep's jobs; nothing where no sweep ran or no job left a result."""
        folder = SweepReport.folder
        if folder is None or not any(folder.rglob("result.json")):
            return
        from rdt.report import report

        page = report([folder], folder)
        print(f"report   {page}\npicture  {page.with_name('front.png')}", file=sys.stdout)
