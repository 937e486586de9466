"""Finds the config folder, composes configs, and turns Hydra's errors into one line."""

import difflib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from rdt import credentials
from rdt.config.rules import RULES, without_rules
from rdt.errors import UsageError, flat, one_line
from rdt.rewards.endpoint import check_arguments
from rdt.targets import conf_dir
from rdt.text import make_streams_safe


def composed(config_name: str, *overrides: str) -> DictConfig:
    """Compose a config outside of a command, as scripts and tests do; nothing in it is checked or resolved."""
    with hydra.initialize_config_dir(conf_dir(), version_base="1.3"):
        return without_rules(hydra.compose(config_name, list(overrides)))


def with_defaults(hydra_config: Any) -> DictConfig:
    """Compose the groups that the command line chose, without its other overrides."""
    chosen = hydra_config.runtime.choices
    groups = [word for word in hydra_config.overrides.task if word.lstrip("+~").split("=")[0] in chosen]
    return without_rules(hydra.compose(hydra_config.job.config_name, groups))


def with_each(group: str, config_name: str) -> Iterator[tuple[str, DictConfig]]:
    """Yield every choice of a group and the config that it gives; choices that do not compose are left out."""
    for name in GlobalHydra.instance().config_loader().get_group_options(group):
        try:
            yield name, hydra.compose(config_name, [f"{group}={name}"])
        except HydraException:
            continue


def in_sweep(hydra_config: Any) -> bool:
    """Return whether the job is one of several that the command starts."""
    return hydra_config.mode == RunMode.MULTIRUN


@contextmanager
def command_errors() -> Iterator[None]:
    """Report the errors of a command in one line; Hydra would print its own in its own way.

    Credentials among its arguments are refused first, because messages repeat arguments.
    """
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    with one_line(), hydra_errors():
        check_arguments(sys.argv[1:])
        credentials.check_typed(sys.argv[1:])
        yield


@contextmanager
def job_errors(hydra_config: Any) -> Iterator[None]:
    """Report the errors of a job in one line if it is the whole command; a sweep handles them itself.

    Paths are relative to where the command was started, whatever hydra.job.chdir says.
    """
    os.chdir(hydra_config.runtime.cwd)
    make_streams_safe()  # also in a job that a launcher runs in a process of its own
    with nullcontext() if in_sweep(hydra_config) else one_line(), hydra_errors():
        yield


@contextmanager
def hydra_errors() -> Iterator[None]:
    """Turn what Hydra and OmegaConf raise into a UsageError with their reason."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise UsageError(_reason(error)) from error


def _reason(error: BaseException) -> str:
    """Return what is wrong and what would be right."""
    if isinstance(error, OverrideParseException):
        return f"{error.override}: {str(error).splitlines()[0]}"
    if isinstance(error, MissingConfigException):
        return _no_choice(error)
    if isinstance(error, ConfigCompositionException) and error.__cause__ is not None:
        return _refused_override(error, error.__cause__)
    if isinstance(error, HydraException) and error.__cause__ is not None:
        return _reason(error.__cause__)  # Hydra wraps the error that counts
    return flat(error)


def _no_choice(error: MissingConfigException) -> str:
    group, _, name = (error.missing_cfg_file or "").rpartition("/")
    if not group or error.options is None:
        return str(error)
    return f"{group}={name} is not one of {', '.join(error.options) or 'nothing: there is no such group'}"


def _refused_override(error: ConfigCompositionException, cause: BaseException) -> str:
    """Return which keys there are; the last word of Hydra's message is the override."""
    typed = (str(error).split() or ["the config"])[-1].lstrip("+")
    if not isinstance(cause, ConfigAttributeError | ConfigKeyError):
        return f"{typed}: {str(cause).splitlines()[0]}"
    section, _, _ = (cause.full_key or typed.partition("=")[0]).rpartition(".")
    known = sorted(str(key) for key in cause.parent_node or () if key != RULES and not str(key).startswith("_"))
    close = difflib.get_close_matches(str(cause.key), known, n=3, cutoff=0.5)
    return f"{typed}: there is no {cause.key} in {section or 'the config'}; " + (
        f"did you mean {' or '.join(close)}?" if close else f"it has {', '.join(known)}"
    )
