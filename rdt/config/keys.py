"""Command lines of plain key=value: they answer at once, and what they refuse is one line."""

import sys
from collections.abc import Callable, Mapping

from rdt import credentials
from rdt.errors import one_line


def command(usage: str, act: Callable[[list[str]], None], argv: list[str] | None = None) -> int:
    """Act on the arguments, or print the usage; return exit status 0, or 1 after a line per fault on stderr."""
    arguments = sys.argv[1:] if argv is None else argv
    asked = bool({"-h", "--help", "help"} & set(arguments))
    try:
        with one_line():
            if asked or not arguments:
                print(usage, file=sys.stdout if asked else sys.stderr)
                return 0 if asked else 1
            credentials.check_typed(arguments)  # first, because messages repeat arguments
            act(arguments)
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def override_key(override: str) -> str:
    """Return the key that an override sets."""
    return override.lstrip("+~").partition("=")[0]


def parsed_keys(arguments: list[str], keys: Mapping[str, str]) -> dict[str, str]:
    """Return the keys that are given and the defaults of the others; ValueError if an argument is none of them."""
    given = dict(keys)
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key not in keys or not value:
            raise ValueError(f"{argument!r} is none of {', '.join(f'{known}=...' for known in keys)}")
        given[key] = value
    return given
