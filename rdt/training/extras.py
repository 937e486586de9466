"""The optional packages that a config needs, which are looked for before anything is loaded."""

from importlib.util import find_spec

from omegaconf import DictConfig

from rdt.errors import UsageError

BOARDS = ("tensorboard", "trackio")  # loggers whose package is an extra of the same name


def check_boards(cfg: DictConfig) -> None:
    """Raise UsageError if the package of a chosen logger is not installed."""
    for name in BOARDS:
        if cfg.logger[name] is not None and find_spec(name) is None:
            raise UsageError(
                f"logger={name} needs the package {name}, which is not installed:"
                f" pip install 'reward-diversity[{name}]'; logger=csv needs none"
            )
