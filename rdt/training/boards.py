"""Loggers to boards that need no account, each through its own library: TensorBoard and Trackio.

Both get the scalars by iteration, the pictures of the training, and at the end the sample grids, the front's table and
its picture.
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, runtime_checkable
from typing import Protocol as Interface

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from rdt.wandb import ID, kept_id

EVENTS = "tensorboard"  # the folder of TensorBoard's files in a run's


@runtime_checkable
class PictureLogger(Interface):
    """Describes a logger that shows pictures over iterations."""

    def log_picture(self, name: str, picture: Image.Image, step: int) -> None: ...


@dataclass(frozen=True)
class Final:
    """Holds what a board shows of a finished run."""

    iteration: int
    scalars: dict[str, float]
    pictures: dict[str, Path]
    columns: list[str]  # of the front's table
    rows: list[list[Any]]


class LocalBoard(Logger):
    """Writes what is logged to a board on this machine."""

    version = ""  # Lightning requires it

    @rank_zero_only
    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Do nothing: the board was given the config when it was made."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.log_scalars({name: value for name, value in metrics.items() if name != "epoch"}, step or 0)

    @abstractmethod
    def log_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers of one iteration."""

    @abstractmethod
    def log_picture(self, name: str, picture: Image.Image, step: int) -> None:
        """Log a picture of one iteration."""

    @abstractmethod
    def log_table(self, columns: list[str], rows: list[list[Any]], step: int) -> None:
        """Log the table of the front."""

    @abstractmethod
    def close(self) -> None:
        """Write what is left and end the board's run."""

    def conclude(self, final: Final) -> None:
        """Log what a finished run has reached, and close."""
        self.log_scalars(final.scalars, final.iteration)
        for name, path in final.pictures.items():
            with Image.open(path) as picture:
                self.log_picture(name, picture.convert("RGB"), final.iteration)
        self.log_table(final.columns, final.rows, final.iteration)
        self.close()


class TensorBoard(LocalBoard):
    """Writes event files; a run that continues hides what was logged from iteration `first` on."""

    name = "tensorboard"

    def __init__(self, out: Path, flush_secs: int, config: str, first: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        super().__init__()
        self.writer = SummaryWriter(str(out / EVENTS), purge_step=first or None, flush_secs=flush_secs)
        if not first:
            self.writer.add_text("config", f"```yaml\n{config}\n```")

    def log_scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    @rank_zero_only
    def log_picture(self, name: str, picture: Image.Image, step: int) -> None:
        import numpy as np

        self.writer.add_image(name, np.asarray(picture.convert("RGB")), step, dataformats="HWC")

    def log_table(self, columns: list[str], rows: list[list[Any]], step: int) -> None:
        self.writer.add_text("front/table", markdown(columns, rows), step)

    def save(self) -> None:
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class Trackio(LocalBoard):
    """Logs to Trackio's database on this machine, under the id that the output folder keeps."""

    name = "trackio"

    def __init__(self, run: Any) -> None:
        super().__init__()
        self.run = run

    @classmethod
    def started(cls, cfg: DictConfig, out: Path) -> "Trackio":
        """Return the logger of a new run, or of the one that the output folder continues."""
        import trackio

        section = cfg.logger.trackio
        return cls(
            trackio.init(
                project=section.project,
                name=f"{cfg.method.name}-{cfg.reward.name}-s{cfg.seed}-{kept_id(out / ID)}",
                group=section.group,
                config=OmegaConf.to_container(cfg, resolve=True),
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        )

    def log_scalars(self, values: Mapping[str, float], step: int) -> None:
        self.run.log(dict(values), step=step)

    @rank_zero_only
    def log_picture(self, name: str, picture: Image.Image, step: int) -> None:
        import trackio

        self.run.log({name: trackio.Image(picture)}, step=step)

    def log_table(self, columns: list[str], rows: list[list[Any]], step: int) -> None:
        import trackio

        self.run.log({"front/table": trackio.Table(columns=columns, data=rows)}, step=step)

    def close(self) -> None:
        self.run.finish()


def local_boards(cfg: DictConfig, out: Path, first: int) -> list[LocalBoard]:
    """Return the boards that a config chooses; `first` is the iteration that a continued run starts with, else 0."""
    found: list[LocalBoard] = []
    if cfg.logger.tensorboard is not None:
        text = OmegaConf.to_yaml(cfg, resolve=True)
        found.append(TensorBoard(out, cfg.logger.tensorboard.flush_secs, text, first))
    if cfg.logger.trackio is not None:
        found.append(Trackio.started(cfg, out))
    return found


def markdown(columns: list[str], rows: list[list[Any]]) -> str:
    """Return a table in Markdown; numbers have four digits."""
    cells = [
        [f"{cell:.4g}" if isinstance(cell, float) else str(cell).replace("|", "\\|") for cell in row] for row in rows
    ]
    lines = [columns, ["---"] * len(columns), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
