"""The optional packages that a config needs, which are looked for before anything is loaded."""

from importlib.util import find_spec

from omegaconf import DictConfig

from rdt.errors import UsageError

BOARDS = {  # loggers whose package is an extra of the same name, and how to install it
    "tensorboard": "pip install -c constraints.txt -e '.[tensorboard]'",
    "trackio": "pip install -c constraints.txt -e '.[trackio]'",
}


def check_boards(cfg: DictConfig) -> None:
    """Raise UsageError if the package of a chosen logger is not installed."""
    for name, install in BOARDS.items():
        if cfg.logger[name] is not None and find_spec(name) is None:
            raise UsageError(
                f"logger={name} needs the package {name}, which is not installed: {install}; logger=csv needs none"
            )
