"""Says what looks like a credential, and refuses it before it can reach a file, a log or the screen.

rdt records overrides and configs whole: in config.yaml, on W&B, in reports. Credentials therefore belong in the
environment (WANDB_API_KEY, HF_TOKEN, RDT_TOKEN) or in the files that `wandb login` and `hf auth login` write.
"""

import os
import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote

from rdt.errors import UsageError
from rdt.targets import entries

SECRET = (
    r"(?:token|secret|passw(?:or)?d|passphrase|authorization|credentials?"
    r"|(?:api|access|private|secret|wandb|hf)[_-]?key)"
)
KEY = re.compile(rf"(?:{SECRET}|bearer)$", re.IGNORECASE)  # how a part of a key or the name of a variable ends
HEADER = re.compile(r"^(?:reward|evaluation\.judges)\b.*\bheaders?\b", re.IGNORECASE)  # a key of what a scorer is sent
INSIDE = re.compile(rf"{SECRET}['\"]?\s*[:=]\s*[^\s,}}]", re.IGNORECASE)  # a key within a value such as {token: x}
USER = re.compile(r"(?:^|:)//[^\s/?#'\"]*@")  # in front of the host of an address
PARAMETER = re.compile(r"[?#&;]([^\s?#&;=]+)")  # the name of a parameter of an address
PRIVATE = re.compile(r"key|token|secret|passw|pwd|auth|sig|cred|session", re.IGNORECASE)  # anywhere in such a name
HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{30,}")
ADDRESSES = ("url", "host")  # keys whose values are addresses, with or without //
HUB = re.compile(r"^(?:hub|dataset):(?=[^/@\s]*:[^/@\s]*@|.*[?#&;])")  # of a repository, with more than its revision
EMPTY = ("", "null", "none", "~", "???")
SHORTEST = 8  # characters of a variable's value that counts as a secret
CURE = "rdt records its settings, so set WANDB_API_KEY, HF_TOKEN or RDT_TOKEN in the environment"


def check_typed(arguments: Iterable[str]) -> None:
    """Raise UsageError, without the value, if an override of a command line looks like a credential."""
    for argument in arguments:
        key, _, value = argument.lstrip("+~").partition("=")
        found = (
            _looks_like(key, value)
            or (_key(key) != key and _in_address(argument))
            or (value[:1] in ("{", "[") and INSIDE.search(value) and "a credential")
        )
        if found:
            raise UsageError(f"{_key(key)}=... holds {found}; {CURE}")


def check_recorded(tree: Any) -> None:
    """Raise UsageError, without the value, if a resolved config holds a credential or a secret of the environment."""
    secrets = environment_secrets()
    for key, value in entries(tree):
        if not isinstance(value, str):
            continue
        if found := _looks_like(key, value):
            raise UsageError(f"{key} holds {found}; {CURE}")
        for name, secret in secrets.items():
            if secret in value:
                raise UsageError(f"{key} holds the value of the environment's {name}; {CURE}")


def environment_secrets() -> dict[str, str]:
    """Return the variables of the environment whose names say that they are secret, and that are long enough."""
    named = {name: value for name, value in os.environ.items() if KEY.search(name) or name.upper().endswith("_KEY")}
    return {name: value for name, value in named.items() if len(value) >= SHORTEST and not os.path.exists(value)}


def _looks_like(key: str, value: str) -> str | None:
    """Return what a value looks like, if that is a credential."""
    named = HEADER.search(key) or any(KEY.search(part) for part in key.split("."))
    if named and value.strip("'\" ").lower() not in EMPTY:
        return "a credential"
    if HUB_TOKEN.search(value):
        return "a token of the Hugging Face hub"
    if key.rpartition(".")[2] in ADDRESSES:
        value = "//" + re.sub(r"^(?:https?:)?[/\\]*", "", re.sub(r"[\s'\"]", "", value), flags=re.IGNORECASE)
    return _in_address(unquote(HUB.sub("//", value)))


def _in_address(text: str) -> str | None:
    """Return what an address in the text holds, if that is a credential."""
    if USER.search(text):
        return "a user name or a password in an address"
    names = PARAMETER.findall(text.partition("//")[2])
    return "a parameter for a secret in an address" if any(PRIVATE.search(unquote(name)) for name in names) else None


def _key(key: str) -> str:
    """Return a key for a message, if it is one; an argument without a key may be a secret itself."""
    return key if re.fullmatch(r"[\w@./:-]{1,80}", key) else "an argument"
