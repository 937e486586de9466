"""The token and the address of a remote scorer, which both of its sides check.

The token comes from the environment alone, so that no file and no screen shows it: `RDT_TOKEN` is sent as
`Authorization: Bearer`, and `rdt serve` compares it with its own.
"""

import os
import re
from ipaddress import ip_address
from urllib.parse import urlsplit

from rdt.errors import UsageError

TOKEN = "RDT_TOKEN"


def token() -> str | None:
    """Return the token of the environment; UsageError, which does not show it, if no header can carry it."""
    value = os.environ.get(TOKEN) or None
    if value is not None and not re.fullmatch(r"[\x21-\x7e]+", value):
        raise UsageError(f"{TOKEN} of the environment has blanks, line ends or characters that are not ASCII")
    return value


def check_url(key: str, url: str) -> None:
    """Raise UsageError unless a URL, which holds no credential, is one of HTTP with a host."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        usable = False
    if not usable:
        raise UsageError(f"{key}={url} is not of the form http://host:port/path")


def is_loopback(host: str | None) -> bool:
    """Return whether a host, by name or address, is this machine and no other can reach it."""
    name = (host or "").strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ip_address(name)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
