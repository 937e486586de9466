"""Errors at the door: one line with the value seen, exit status 1; RDT_TRACEBACK=1 shows where it came from."""

import difflib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import singledispatch

from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException


class UsageError(ValueError):
    """Something the user typed or gave cannot be run as it is."""


class Terminated(InterruptedError):
    """The run was told to stop before it was done."""


class Diverged(FloatingPointError):
    """A reward, loss or gradient that is not finite."""


FORESEEN = (ValueError, OSError, FloatingPointError, HydraException, OmegaConfBaseException)


def to_stderr(line: str) -> None:
    """Print an error."""
    print(f"error: {line}", file=sys.stderr, flush=True)


@contextmanager
def one_line(say: Callable[[str], None] = to_stderr) -> Iterator[None]:
    """Turn the errors that inputs cause into one line, on stderr unless told otherwise, and exit status 1."""
    try:
        yield
    except FORESEEN as error:
        if os.environ.get("RDT_TRACEBACK"):
            raise
        say(flat(error))
        sys.exit(1)
    except KeyboardInterrupt:
        say("interrupted")
        sys.exit(130)


def flat(error: BaseException) -> str:
    """An error's message on one line."""
    return " ".join(reason(error).split()) or type(error).__name__


@singledispatch
def reason(error: BaseException) -> str:
    """What is wrong and what would be right."""
    return str(error)


@reason.register
def _(error: OSError) -> str:
    return f"{error.strerror}: {error.filename}" if error.strerror else str(error)


@reason.register
def _(error: HydraException) -> str:
    """Hydra wraps the reason, which is what counts."""
    return str(error) if error.__cause__ is None else reason(error.__cause__)


@reason.register
def _(error: OverrideParseException) -> str:
    return f"{error.override}: {str(error).splitlines()[0]}"


@reason.register
def _(error: MissingConfigException) -> str:
    group, _, name = (error.missing_cfg_file or "").rpartition("/")
    if not group or error.options is None:
        return str(error)
    return f"{group}={name} is not one of {', '.join(error.options) or 'nothing: there is no such group'}"


@reason.register
def _(error: ConfigCompositionException) -> str:
    """An override that the config refused; Hydra's last word of the message is the override."""
    cause = error.__cause__
    if cause is None:
        return str(error)
    typed = (str(error).split() or ["the config"])[-1].lstrip("+")
    if not isinstance(cause, ConfigAttributeError | ConfigKeyError):
        return f"{typed}: {str(cause).splitlines()[0]}"
    section, _, _ = (cause.full_key or typed.partition("=")[0]).rpartition(".")
    known = sorted(map(str, cause.parent_node or ()))
    close = difflib.get_close_matches(str(cause.key), known, n=3, cutoff=0.5)
    return f"{typed}: there is no {cause.key} in {section or 'the config'}; " + (
        f"did you mean {' or '.join(close)}?" if close else f"it has {', '.join(known)}"
    )
