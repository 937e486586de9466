"""Text from files and strangers: how it is read, how it is made printable, and how output survives any encoding."""

import codecs
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

BOMS = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF16_LE: "utf-16",
        codecs.BOM_UTF16_BE: "utf-16"}  # fmt: skip
# the longer marks first: that of UTF-16 begins the one of UTF-32
JOINERS = "\u200c\u200d"  # they have no width of their own, and scripts and emoji need them
PLAIN = str.maketrans({"–": "-", "—": "-", "−": "-", "±": "~", "×": "x", "Δ": "d", "•": "*", "·": ".", "…": "...",
                       "→": "->", "“": '"', "”": '"', "‘": "'", "’": "'", "●": "*", "○": "o"})  # fmt: skip
FORMULA = re.compile(r"[\s\x00-\x1f]*[=+\-@]|[\t\r\n]")  # what makes a spreadsheet calculate a cell
LINE = re.compile(r"\r\n|\r|\n")
NAME = 200  # characters of a stranger's name or reason that a line shows
DEGRADE = "rdt.degrade"  # the codec error handler of `make_streams_safe`


# reading


def read_text(path: Path) -> str:
    """Return a text file's content without its byte order mark; line ends stay as they are.

    UTF-8 is expected; UTF-16 and UTF-32 are read if a byte order mark announces them. ValueError, naming the file, if
    the bytes are not text in that encoding.
    """
    content = path.read_bytes()
    encoding = next((name for mark, name in BOMS.items() if content.startswith(mark)), "utf-8-sig")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        name = encoding.removesuffix("-sig").upper()
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path} is not {name} text: line {line} has byte 0x{content[error.start]:02x}") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ValueError(f"{path} has a NUL character in line {line}: it is not text, or UTF-16 without its mark")
    return text


def lines_of(text: str) -> list[str]:
    """Return the lines that end in LF, CRLF or CR; other separators, such as U+2028 or FF, belong to a line."""
    return LINE.split(text)


def read_json(path: Path) -> Any:
    """Return the value in a JSON file; ValueError, naming the file, if it is not JSON in Unicode."""
    text = read_text(path)
    try:
        value = parse_json(text)
    except ValueError as error:
        raise ValueError(f"{path} {error}") from None
    if r"\ud" in text.lower() and (found := lone_surrogate(json.dumps(value, ensure_ascii=False))):
        raise ValueError(f"{path} has {found}: half of a character, which is not Unicode")
    return value


def parse_json(text: str) -> Any:
    """Return the value of JSON, lone surrogates included; ValueError, beginning with a verb, if it is not JSON."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("is not JSON that can be read: it is nested too deep") from None
    except ValueError as error:
        raise ValueError(f"is not JSON: {error}") from None


def lone_surrogate(text: str) -> str:
    r"""Return the escape of the first lone surrogate of a text, such as "\ud83d"; empty if there is none."""
    found = re.search("[\ud800-\udfff]", text)
    return ascii(found[0])[1:-1] if found else ""


# showing


def printable(text: object, most: int | None = None) -> str:
    """Return a text on one line without control characters, cut after `most` characters.

    Every white space becomes a blank. Characters that move the cursor, change colours or turn the direction of
    writing, and halves of characters, become their escapes.
    """
    shown = "".join(" " if c.isspace() else c if c.isprintable() or c in JOINERS else _escape(c) for c in str(text))
    return shown if most is None or len(shown) <= most else f"{shown[: most - 2]} …"


def folded(text: object, most: int | None = None) -> str:
    """Return a printable text in which one blank stands for any run of white space."""
    return printable(" ".join(str(text).split()), most)


def csv_cell(value: Any) -> Any:
    """Return a cell of a CSV file; a text that a spreadsheet would calculate gets an apostrophe in front."""
    if not isinstance(value, str):
        return value
    text = re.sub("[\ud800-\udfff]", lambda found: _escape(found[0]), value)
    return f"'{text}" if FORMULA.match(text) else text


def make_streams_safe() -> None:
    """Let stdout and stderr replace what their encoding cannot express, so that no display ends a command."""
    codecs.register_error(DEGRADE, _degraded)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=DEGRADE)


def _degraded(error: UnicodeError) -> tuple[str, int]:
    """Return what to write for characters that an encoding does not have, and where to go on."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    shown = error.object[error.start : error.end].translate(PLAIN)
    return "".join(c if c.isascii() else "-" if "\u2500" <= c <= "\u259f" else _escape(c) for c in shown), error.end


def _escape(character: str) -> str:
    r"""Return an escape of a character, such as "\x1b" or "\u202e"."""
    return f"\\x{ord(character):02x}" if character.isascii() else character.encode("ascii", "backslashreplace").decode()
