"""Finds the config folder, composes configs, and turns Hydra's errors into one line."""

import argparse
import difflib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from rdt import credentials
from rdt.config import quoting
from rdt.config.rules import RULES, without_rules
from rdt.errors import Refused, UsageError, flat, one_line
from rdt.targets import conf_dir, instantiate, options
from rdt.text import make_streams_safe

LISTED = ("diversity", "judges")  # groups of which several choices may be listed
VARIABLES = ("RDT_CACHE",)  # of the environment, in conf/


def composed(config_name: str, *overrides: str) -> DictConfig:
    """Compose a config outside of a command, as scripts and tests do; nothing in it is checked or resolved."""
    empty_means_default()
    with hydra.initialize_config_dir(conf_dir(), version_base="1.3"):
        return without_rules(hydra.compose(config_name, list(overrides)))


def with_defaults(hydra_config: Any) -> DictConfig:
    """Compose the groups that the command line chose, without its other overrides."""
    chosen = hydra_config.runtime.choices  # which lacks groups that are chosen as a list, such as judges
    keys = {word: word.lstrip("+~").split("=")[0] for word in typed(hydra_config)}
    groups = [word for word, key in keys.items() if key in chosen or Path(conf_dir(), key).is_dir()]
    return without_rules(hydra.compose(hydra_config.job.config_name, groups))


def typed(hydra_config: Any) -> list[str]:
    """Return the overrides as they were typed; a reference in one of them is not resolved."""
    return list(OmegaConf.to_container(hydra_config.overrides.task, resolve=False))


def with_each(group: str, config_name: str) -> Iterator[tuple[str, DictConfig]]:
    """Yield every choice of a group and the config that it gives; choices that do not compose are left out."""
    for name in GlobalHydra.instance().config_loader().get_group_options(group):
        try:
            yield name, hydra.compose(config_name, [f"{group}={name}"])
        except HydraException:
            continue


def built_now(section: DictConfig) -> Any:
    """Return the object of a section that takes no weights and no torch, such as a prompt set, while checking."""
    with hydra_errors():
        return instantiate(OmegaConf.to_container(section, resolve=True))


def in_sweep(hydra_config: Any) -> bool:
    """Return whether the job is one of several that the command starts."""
    return hydra_config.mode == RunMode.MULTIRUN


@contextmanager
def command_errors() -> Iterator[None]:
    """Report the errors of a command in one line; Hydra would print its own in its own way.

    Credentials among its arguments are refused first, because messages repeat arguments.
    """
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    empty_means_default()
    with one_line(), hydra_errors():
        credentials.check_typed(sys.argv[1:])
        check_words(sys.argv[1:])
        yield


def empty_means_default() -> None:
    """Remove the variables that the config reads from the environment if they are empty."""
    for name in VARIABLES:
        if not os.environ.get(name, "").strip():
            os.environ.pop(name, None)


def check_words(words: Sequence[str]) -> None:
    """Raise UsageError with every word that is neither an option of Hydra's nor key=value that it can read."""
    parser = get_args_parser()
    parser.exit_on_error = False
    try:
        options, unknown = parser.parse_known_args(words)
    except argparse.ArgumentError as error:
        raise UsageError(str(error)) from None
    swept = bool(options.multirun)
    faults = [f"{word} is neither an option nor key=value; --help lists both" for word in unknown]
    faults += [fault for word in options.overrides if (fault := unreadable(word, swept))]
    if faults:
        raise Refused(faults)


def unreadable(word: str, swept: bool) -> str | None:
    """Return why Hydra cannot read an override, with the corrected word if quotes mend it; None if it can."""
    equals = "=" in word
    if not equals and not word.startswith("~"):
        return f"{word or repr(word)} is not key=value"
    try:
        parsed = OverridesParser.create().parse_override(word)
    except HydraException as error:
        mended = quoting.corrected(word, swept)
        if mended:
            return f"{word} is read only in quotes; type {mended}"
        return f"{word} cannot be read as key=value: {str(error).splitlines()[0]}"
    if not parsed.key_or_group:
        return f"{word} has no key in front of ="
    if equals and not parsed.is_sweep_override() and Path(conf_dir(), parsed.key_or_group).is_dir():
        return _no_name(word, parsed)
    if parsed.is_sweep_override() and not swept:
        return f"{word} gives several values; add -m to run each, or type {quoting.corrected(word)} for one text"
    return None


def _no_name(word: str, parsed: Override) -> str | None:
    """Return why the value of a choice is no name, or no list of names where one may be listed; None if it is."""
    key, value = word.partition("=")[0], None if parsed.is_delete() else parsed.value()
    odd = [one for one in (value if isinstance(value, list) else [value]) if not isinstance(one, str)]
    if odd:
        return f"{word}: {'null' if odd == [None] else odd[0]} is no name; a list of choices is written as {key}=[a,b]"
    if isinstance(value, list) and parsed.key_or_group not in LISTED:
        return f"{word} lists choices, of which {key} takes one; add -m and leave out the brackets to run each"
    return None


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
    if isinstance(error, MissingConfigException):
        return _no_choice(error)
    if isinstance(error, ConfigCompositionException) and error.__cause__ is not None:
        return _refused_override(error, error.__cause__)
    if isinstance(error, HydraException) and error.__cause__ is not None:
        return _reason(error.__cause__)  # Hydra wraps the error that counts
    return without_key(error)


def without_key(error: BaseException) -> str:
    """Return OmegaConf's reason with the key in front, without the type of its parent."""
    reason, _, rest = flat(error).partition(" full_key: ")
    key = rest.partition(" object_type=")[0]
    return f"{key}: {reason}" if key and key not in reason else reason


def _no_choice(error: MissingConfigException) -> str:
    group, _, name = (error.missing_cfg_file or "").rpartition("/")
    offered = error.options if error.options is not None else options(group)  # Hydra does not say for a list
    return f"{group}={name} is not one of {', '.join(offered) or 'nothing: there is no such group'}"


def _refused_override(error: ConfigCompositionException, cause: BaseException) -> str:
    """Return which keys there are; the last word of Hydra's message is the override."""
    typed = (str(error).split() or ["the config"])[-1].lstrip("+")
    if "Cannot merge" in str(cause):
        return f"{typed} is no section; set its keys one by one, as {typed.partition('=')[0]}.<key>=..."
    if not isinstance(cause, ConfigAttributeError | ConfigKeyError):
        return f"{typed}: {str(cause).splitlines()[0]}"
    section, _, _ = (cause.full_key or typed.partition("=")[0]).rpartition(".")
    known = sorted(str(key) for key in cause.parent_node or () if key != RULES and not str(key).startswith("_"))
    close = difflib.get_close_matches(str(cause.key), known, n=3, cutoff=0.5)
    return f"{typed}: there is no {cause.key} in {section or 'the config'}; " + (
        f"did you mean {' or '.join(close)}?" if close else f"it has {', '.join(known)}"
    )
