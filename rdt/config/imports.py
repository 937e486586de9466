"""Finds what a config names for import, without importing it: a dry run takes no torch and runs no code of a plug-in.

A target is a dotted path as `_target_` has it. Its module is looked up as Python would, and its attribute is looked up
in the module's source; a module without source, or one that computes its attributes, is accepted.
"""

import ast
import difflib
import os
import re
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.machinery import BuiltinImporter, ModuleSpec
from pathlib import Path
from typing import Any

INSTALLED = tuple({sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")})
PACKAGE = str(Path(__file__).resolve().parents[1])


def faults(tree: Any, prefix: str = "") -> Iterator[str]:
    """Yield, for each `_target_` in a resolved config that cannot be imported, the key and the reason."""
    if isinstance(tree, list):
        tree = dict(enumerate(tree))
    for key, branch in tree.items() if isinstance(tree, Mapping) else ():
        place = f"{prefix}{key}"
        if key == "_target_" and (reason := fault(branch)):
            yield f"{place}={branch} cannot be imported: {reason}"
        elif key != "_target_":
            yield from faults(branch, f"{place}.")


def fault(target: Any) -> str | None:
    """Return why a dotted path cannot be imported, or None."""
    if not isinstance(target, str) or not all(part.isidentifier() for part in target.split(".")) or "." not in target:
        return "a target is a dotted path such as package.module.Class"
    return _fault(target)


@cache
def _fault(target: str) -> str | None:
    parts = target.split(".")
    spec, depth = _deepest(parts)
    if spec is None:
        return f"there is no module {parts[0]} on the path (the working directory is on it)"
    if depth == len(parts):
        return "it is a module; name a class or a function in it"
    return _Source.of(str(spec.origin)).fault(parts[depth]) if spec.has_location and spec.origin else None


def tree(module: str) -> ast.Module:
    """Return the parsed source of a module; it is empty if the module has no source that can be parsed."""
    parts = module.split(".")
    spec, depth = _deepest(parts)
    if spec is None or depth < len(parts) or not spec.has_location:
        return ast.Module([], [])
    try:
        return ast.parse(_Source.of(str(spec.origin)).text)
    except SyntaxError:
        return ast.Module([], [])


def class_constant(target: str, attribute: str) -> Any:
    """Return the constant that a class declares for an attribute, itself or by its bases; None if that is not known.

    It is not known if the class computes the attribute, or if its source cannot be found.
    """
    module, _, name = target.rpartition(".")
    source = tree(module)
    found = next((node for node in source.body if isinstance(node, ast.ClassDef) and node.name == name), None)
    if found is None:
        origin = imported(source, name)
        return class_constant(".".join(origin), attribute) if origin and origin != (module, name) else None
    for node in ast.walk(found):
        names = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(attribute in (getattr(one, "id", None), getattr(one, "attr", None)) for one in names):
            value = getattr(node, "value", None)
            return value.value if node in found.body and isinstance(value, ast.Constant) else None
        if isinstance(node, ast.FunctionDef) and node.name == attribute:
            return None
    bases = (class_constant(f"{module}.{base.id}", attribute) for base in found.bases if isinstance(base, ast.Name))
    return next((value for value in bases if value is not None), None)


def imported(tree: ast.Module, name: str) -> tuple[str, str] | None:
    """Return the module from which a name is imported, and its name there."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return node.module, alias.name
    return None


def _deepest(parts: list[str]) -> tuple[ModuleSpec | None, int]:
    """Return the spec of the deepest module on a dotted path, and how many parts name it."""
    spec, depth = None, 0
    while depth < len(parts) and (found := _spec(parts[: depth + 1], spec)):
        spec, depth = found, depth + 1
    return spec, depth


def _spec(parts: list[str], parent: ModuleSpec | None) -> ModuleSpec | None:
    """Return the spec of a module below its parent's, which is not imported."""
    if parent is not None and parent.submodule_search_locations is None:
        return None
    path = None if parent is None else list(parent.submodule_search_locations or ())
    name = ".".join(parts)
    finders = (finder for finder in sys.meta_path if path is None or finder is not BuiltinImporter)
    return next((spec for finder in finders if (spec := finder.find_spec(name, path))), None)


@dataclass(frozen=True)
class _Source:
    """Reads the source of a module."""

    file: Path
    text: str

    @staticmethod
    @cache
    def of(origin: str) -> "_Source":
        """Return the source in a file; it is empty if the file is no Python source."""
        file = Path(origin)
        try:
            return _Source(file, file.read_text(encoding="utf-8") if file.suffix == ".py" else "")
        except (OSError, UnicodeDecodeError):
            return _Source(file, "")

    def fault(self, name: str) -> str | None:
        """Return why a name cannot be imported from the module, or None."""
        if not self.text:
            return None
        own = not self.file.is_relative_to(PACKAGE) and not str(self.file).startswith(INSTALLED)
        if not own and re.search(rf"^(?:class|def) {re.escape(name)}\b", self.text, re.MULTILINE):
            return None
        try:
            names = set(_names(ast.parse(self.text)))
        except SyntaxError as error:
            return f"{self.file} line {error.lineno} is not valid Python: {error.msg}"
        if name not in names and not names & {"*", "__getattr__"}:
            close = difflib.get_close_matches(name, sorted(names), n=1)
            return f"{self.file.name} has no {name}" + (f"; did you mean {close[0]}?" if close else "")
        return next(self.missing_imports(), None) if own else None

    def missing_imports(self) -> Iterator[str]:
        """Yield the packages that the module imports at its head and that are not installed."""
        for node in ast.parse(self.text).body:
            found = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            found += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
            for package in {name.partition(".")[0] for name in found}:
                if package not in sys.modules and _spec([package], None) is None:
                    yield f"{self.file.name} imports {package}, which is not installed"


def _names(tree: ast.Module) -> Iterator[str]:
    """Yield the names that a module binds anywhere outside its functions and classes, and * for `import *`."""
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)
        if isinstance(node, ast.Name):
            yield node.id
        waiting.extend(ast.iter_child_nodes(node))


def working_directory_on_path() -> None:
    """Put the working directory on the path, as `python -m` does, so that plug-ins there are found."""
    here = os.getcwd()
    if not sys.flags.safe_path and here not in sys.path:
        sys.path.insert(0, here)
