"""How an override must be written so that the shell and Hydra read the text that was meant.

Hydra reads no letters beyond ASCII and few punctuation marks outside quotes, and a shell removes the outer quotes; so a
text often takes two pairs: 'prompt="it is a circle, a red one"'.
"""

import os
import shlex
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

BACKSLASH = "\\"
OPENING, CLOSING = "[{(", "]})"
SPECIAL = "!$`\\"  # what a shell reads inside double quotes


def corrected(word: str, swept: bool = False) -> str | None:
    """Return the override as it should be typed into a shell, or None if quotes cannot mend it.

    `word` is the override as the shell handed it on. In a sweep, commas separate values.
    """
    key, equals, value = word.partition("=")
    if not equals or _parsed(f"{key}=1") is None or not key.strip("+~ ") or "\n" in value:
        return None
    values = _split(value) if swept else [value]
    mended = ",".join(quoted(os.path.expanduser(one) if one.startswith("~/") else one) for one in values)
    override = f"{key}={mended}"
    return for_shell(override) if mended != value and _parsed(override) is not None else None


def quoted(value: str) -> str:
    """Return a value that Hydra reads as this text, or as a list or mapping whose texts are these."""
    if value[:1] == "[" and value[-1:] == "]":
        return f"[{','.join(quoted(part.strip()) for part in _split(value[1:-1]))}]" if value != "[]" else value
    if value[:1] == "{" and value[-1:] == "}" and all(":" in part for part in _split(value[1:-1])):
        pairs = (part.split(":", 1) for part in _split(value[1:-1]))
        return "{" + ",".join(f"{quoted(name.strip())}:{quoted(one.strip())}" for name, one in pairs) + "}"
    if _stands_for_itself(value):
        return value
    return text(value)


def text(value: str) -> str:
    """Return the value in quotes: in double ones, unless it has them and no single ones."""
    mark = "'" if '"' in value and "'" not in value else '"'
    body, slashes = "", 0
    for letter in value:
        if letter == mark:  # Hydra reads backslashes in front of a quotation mark as escapes, others as they are
            body += BACKSLASH * (slashes + 1)
        slashes = slashes + 1 if letter == BACKSLASH else 0
        body += letter
    return f"{mark}{body}{BACKSLASH * slashes}{mark}"


def for_shell(word: str) -> str:
    """Return a word as one argument of a POSIX shell, in the quotes that change it least."""
    if shlex.quote(word) == word:
        return word
    if "'" not in word or any(letter in SPECIAL for letter in word):
        return shlex.quote(word)
    return '"' + word.replace('"', r"\"") + '"'


def _stands_for_itself(value: str) -> bool:
    """Return whether Hydra reads the bare value as one element, not as a list of choices and not as a function."""
    override = _parsed(f"key={value}")
    return override is not None and not override.is_sweep_override() and "\n" not in value


def _parsed(word: str) -> Any:
    """Return Hydra's override of a word; None if Hydra cannot read it."""
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException:
        return None


def _split(text: str) -> list[str]:
    """Return the parts between the commas that stand outside brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in OPENING) - (letter in CLOSING)
        if letter == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts
