"""Credentials of the remote scorer: they come from the environment alone, so that no file and no screen shows them.

`RDT_TOKEN` is sent as `Authorization: Bearer`, and `rdt serve` compares it with its own. A URL that carries a secret is
refused before anything is written, in words that do not repeat it.
"""

import os
import re
from collections.abc import Iterable
from ipaddress import ip_address
from urllib.parse import parse_qsl, urlsplit

from rdt.errors import UsageError

TOKEN = "RDT_TOKEN"
SECRET = re.compile(r"key|token|secret|passw|pwd|auth|sig|cred|session", re.IGNORECASE)  # in the name of a parameter
HEADER = re.compile(r"headers?|authorization|token|bearer|password|passwd|secret|api_?key", re.IGNORECASE)
HINT = f"give the credential as {TOKEN} in the environment, which is sent as `Authorization: Bearer`"


def token() -> str | None:
    """Return the token of the environment; UsageError, which does not show it, if no header can carry it."""
    value = os.environ.get(TOKEN) or None
    if value is not None and not re.fullmatch(r"[\x21-\x7e]+", value):
        raise UsageError(f"{TOKEN} of the environment has blanks, line ends or characters that are not ASCII")
    return value


def check_url(key: str, url: str) -> None:
    """Raise UsageError, which does not show the URL, if it carries a user, a password or a parameter for a secret."""
    try:
        parts = urlsplit(url)
        parameters = parse_qsl(f"{parts.query}&{parts.fragment}", keep_blank_values=True)
    except ValueError as error:
        raise UsageError(f"{key} is not a URL: {error}") from None
    if "@" in parts.netloc:
        raise UsageError(f"{key} has a user name or a password before its host; {HINT}")
    if secret := next((name for name, _ in parameters if SECRET.search(name)), None):
        raise UsageError(f"{key} has the parameter {secret!r:.40}, which looks like a secret; {HINT}")


def check_arguments(arguments: Iterable[str]) -> None:
    """Raise UsageError if a command line gives a secret, before anything of it is composed, shown or written."""
    for argument in arguments:
        key, equals, value = argument.lstrip("+~").partition("=")
        last = key.rpartition(".")[2]
        if equals and last == "url":
            for url in value.strip("'\"").split(","):
                check_url(key, url.strip("'\" "))
        scorer = key.startswith(("reward.", "evaluation.judges."))
        if scorer and any(HEADER.fullmatch(part) for part in key.split(".")[1:]):
            raise UsageError(f"{key} would be written into config.yaml; {HINT}")


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
