"""Prints figures of a checkout's layout: files, lines, functions, layers, configs and docstrings.

python benchmarks/compare/figures.py <checkout> [<checkout>]
"""

import ast
import re
import statistics
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

PROTOCOL = {"main", "entry", "build", "predict", "report"}  # names that several modules define on purpose


def figures(root: Path) -> dict[str, object]:
    """Return every figure of a checkout by name."""
    return code_figures(root) | config_figures(root)


def config_figures(root: Path) -> dict[str, object]:
    """Return the figures of conf/."""
    yamls = sorted((root / "conf").rglob("*.yaml"))
    text = [file.read_text("utf-8") for file in yamls]
    tuned = [file for file in yamls if {"setting", "tuned"} & set(file.relative_to(root).parts)]
    return {
        "yaml files": len(yamls),
        "yaml lines": sum(len(one.splitlines()) for one in text),
        "yaml lines with ${": sum("${" in line for one in text for line in one.splitlines()),
        "settings files without a value": sum(map(empty, tuned)),
    }


def code_figures(root: Path) -> dict[str, object]:
    """Return the figures of rdt/ and tests/."""
    files, tests = (sorted((root / name).rglob("*.py")) for name in ("rdt", "tests"))
    trees = {file: ast.parse(file.read_text("utf-8")) for file in files}
    lengths = sorted(node.end_lineno - node.lineno + 1 for tree in trees.values() for node in functions(tree))
    return {
        "python files": len(files),
        "python lines": sum(len(file.read_text("utf-8").splitlines()) for file in files),
        "flat modules": len([file for file in files if file.parent == root / "rdt"]) - 1,
        "rooms": len([folder for folder in (root / "rdt").iterdir() if (folder / "__init__.py").is_file()]),
        "import layers": layers(root),
        "functions that rename a file": sum(renames(node) for tree in trees.values() for node in functions(tree)),
        "functions that parse result.json": sum(parses(node) for tree in trees.values() for node in functions(tree)),
        "names defined twice": ", ".join(twice(trees)) or "none",
        "functions: median, p90, longest": (statistics.median(lengths), lengths[len(lengths) * 9 // 10], lengths[-1]),
        "longest file": max((len(file.read_text("utf-8").splitlines()), file.name) for file in files),
        "test files, lines": (len(tests), sum(len(file.read_text("utf-8").splitlines()) for file in tests)),
    }  # fmt: skip


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    """Yield every function and method of a module."""
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def layers(root: Path) -> int:
    """Return the number of layers in the import contract."""
    found = re.search(r"^layers = \[(.*?)^\]", (root / "pyproject.toml").read_text("utf-8"), re.M | re.S)
    return len(re.findall(r'^\s+"', found[1], re.M)) if found else 0


def empty(file: Path) -> bool:
    """Return whether a yaml holds comments and a defaults list, and no value."""
    lines = [line for line in file.read_text("utf-8").splitlines() if line.strip() and not line.startswith("#")]
    return not any(re.match(r"(?!defaults:)\s*[\w.]+:", line) for line in lines)


def renames(node: ast.FunctionDef) -> bool:
    """Return whether a function puts a file in another's place."""
    calls = (call for call in ast.walk(node) if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute))
    return any(call.func.attr == "rename" or (call.func.attr == "replace" and len(call.args) == 1 and not call.keywords)
               or ast.unparse(call.func) == "os.replace" for call in calls)  # fmt: skip


def parses(node: ast.FunctionDef) -> bool:
    """Return whether a function reads JSON that is a run's result."""
    source = ast.unparse(node)
    return "json.load" in source and ("result.json" in source or "result" in node.name or node.name == "_parsed")


def twice(trees: dict[Path, ast.Module]) -> list[str]:
    """Return public names that two modules define at top level."""
    names = Counter(
        node.name for tree in trees.values() for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    )  # fmt: skip
    return sorted(f"{name} ({count})" for name, count in names.items() if count > 1 and name not in PROTOCOL)


def main() -> None:
    """Print the figures of one checkout, or of two side by side."""
    found = [figures(Path(root).resolve()) for root in sys.argv[1:]]
    for name in found[0]:
        print(f"{name:34}", *(f"{one[name]!s:40}" for one in found), sep="  ")


if __name__ == "__main__":
    main()
