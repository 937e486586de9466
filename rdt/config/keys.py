"""Command lines of plain key=value: they answer at once, and what they refuse is one line."""

import sys
from collections.abc import Callable, Mapping

from rdt.errors import flat
from rdt.text import make_streams_safe


def command(usage: str, act: Callable[[list[str]], None], argv: list[str] | None = None) -> int:
    """Exit status 0, or 2 after one line on stderr."""
    make_streams_safe()
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or {"-h", "--help", "help"} & set(arguments):
        print(usage)
        return 0 if arguments else 2
    try:
        act(arguments)
    except (OSError, ValueError) as error:
        print(f"error: {flat(error)}", file=sys.stderr)
        return 2
    return 0


def parsed_keys(arguments: list[str], keys: Mapping[str, str]) -> dict[str, str]:
    """What is given of the keys, the others at their defaults; ValueError where an argument is no key=value of them."""
    given = dict(keys)
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key not in keys or not value:
            raise ValueError(f"{argument!r} is none of {', '.join(f'{known}=...' for known in keys)}")
        given[key] = value
    return given
