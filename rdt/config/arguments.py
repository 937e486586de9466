"""Finds whether a class or a function takes an argument, in its source and without importing it.

A key that `+` adds to a section with a `_target_` becomes an argument; a misspelt one is refused before anything is
loaded.
"""

import ast
import difflib
from collections.abc import Iterator, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rdt.config import imports

OTHERS = ("name", "plan", "scale", "offset", "curve", "knob", "weight", "mean", "std")  # keys that are no arguments
CLOSED = {  # sections whose keys are arguments of a class that no `_target_` names
    "model.lora": "rdt.policy.Adapter",
    "model.sampling": "rdt.rollout.Sampling",
}
EMPTY = ("ABC", "object", "Protocol")  # bases that take no arguments
Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def unknown(cfg: DictConfig, words: Sequence[str]) -> Iterator[str]:
    """Yield the keys that overrides add with `+` and that the class or the function of their section does not take."""
    for word in (word.lstrip("+") for word in words if word.startswith("+") and "@" not in word):
        parts = word.partition("=")[0].split(".")
        for depth in range(len(parts) - 1, 0, -1):
            section, name = ".".join(parts[:depth]), parts[depth]
            target = CLOSED.get(section) or _target(OmegaConf.select(cfg, section))
            if target:
                taken = accepted(target)
                if taken is not None and name not in (*taken, *OTHERS) and not name.startswith("_"):
                    close = difflib.get_close_matches(name, sorted(taken), n=1)
                    hint = f"; did you mean {section}.{close[0]}?" if close else ""
                    yield f"{word}: {target} has no argument {name}{hint}"
                break


def accepted(target: str) -> set[str] | None:
    """Return the names of the arguments of a class or a function; None if its source does not settle them."""
    module, _, name = target.rpartition(".")
    return _accepted(module, name)


def _target(section: Any) -> str | None:
    target = section.get("_target_") if isinstance(section, DictConfig) else None
    return target if isinstance(target, str) else None


def _accepted(module: str, name: str) -> set[str] | None:
    tree = imports.tree(module)
    found = next((node for node in tree.body if isinstance(node, Definition) and node.name == name), None)
    if found is None:
        origin = imports.imported(tree, name)
        return _accepted(*origin) if origin else None
    return _of_class(module, found) if isinstance(found, ast.ClassDef) else _of_function(found)


def _of_function(found: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str] | None:
    return None if found.args.kwarg else _parameters(found)


def _of_class(module: str, found: ast.ClassDef) -> set[str] | None:
    """Return the arguments of a constructor: its own, and its bases' if it has none or hands further ones on."""
    made = next((node for node in found.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"), None)
    if made and not (made.args.kwarg and found.bases):
        return _of_function(made)
    taken = _parameters(made) if made else _fields(found)
    for base in found.bases:
        name = base.id if isinstance(base, ast.Name) else ""
        more = set() if name in EMPTY else _accepted(module, name) if name else None
        if more is None:
            return None
        taken |= more
    return taken


def _parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    arguments = function.args
    return {argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)} - {"self"}


def _fields(cls: ast.ClassDef) -> set[str]:
    """Return the fields of a dataclass; none of another class."""
    marks = (mark.func if isinstance(mark, ast.Call) else mark for mark in cls.decorator_list)
    if not any(isinstance(mark, ast.Name) and mark.id == "dataclass" for mark in marks):
        return set()
    return {
        node.target.id for node in cls.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
