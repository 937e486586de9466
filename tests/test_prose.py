"""Tests of conventions that no linter knows: docstrings have a verb, functions are short, names mean one thing.

`python tests/test_prose.py [path ..]` prints every problem, then a count per file.
"""

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("rdt", "tests", "benchmarks", "experiments", "docs")
LONGEST = 25  # lines of a function, its docstring included
# One caller finds these names in many modules
PROTOCOL = {"main", "entry", "build", "forward", "train", "parts", "pipeline", "predict", "encode"}


def _words(text: str) -> set[str]:
    return set(text.split())


VERBS = _words("""
accept add adjust affect agree align allow answer appear append apply ask assert assign attach attempt average avoid
batch become begin belong bind block bound break bring build cache call cap capture carry cast catch change check
choose clamp clean clear climb clip close coerce collapse collect combine come compare complain complete compose
compress compute configure connect consist construct contain continue control convert copy correspond count cover crop
cut decay decide declare decode deduce define delete demand denoise depend derive describe detect determine differ
disable discard distil divide dominate download draw drop embed emit enable encode end ensure enter equal escape
exceed exclude execute exist exit expand expect explain extend extract fail fall feed fetch fill filter find finish
fit fix flush fold follow forbid force forget forward free freeze gain gather get give go group grow guard guess
handle happen help hide hold hurt ignore image implement include increase indicate infer inherit inject insert inspect
invert invoke join keep kill know label lead learn leave let lie list load lock log look lose make map mark mask match
matter mean measure meet merge mix model modify move multiply name need obtain offer omit open order override
overwrite own pack pad parse pass pause perform permute pick place play plot point predict prepare preprocess preserve
press prevent print proceed process project prompt prove provide prune pull push put raise rank reach read rebuild
receive reconstruct record recover reduce refer refuse register reject release rely remain remember remove rename
render repeat replace report represent reproduce require rescale reset reshape resolve respond restart restore
restrict resume retry return reveal reverse reward rise roll round run sample satisfy save say scale scan score see
seed seem select send separate serve set shape shard share show shuffle silence sit skip solve sort span spell spend
split spread stand start state stay step stop store strip substitute subtract suffice sum supply support swap take
talk tell tempt tend test tie tilt trace track train transform treat trim truncate try tune turn unfold update
upsample use value vary view visit wait want warm warn weigh weight win wrap write yield""")
# Nouns that are verbs where they open a sentence
COMMANDS = _words("""average cache cap count list log map mark mask match measure plot record render report round run
set sample scale score share split step sum test trace track update use""")
# Nouns that are verbs in -s only with an object: "it ranks the images", but not "the ranks"
NOUNS = COMMANDS | _words("""batch block bound group image label mean model name order point prompt rank reward
seed shape value view weight""")
FINITE = _words("""are began came can cannot could did do does gave got had has have is knew may might must ran
saw should took was went were will would""")
REGULAR = ("ate", "ise", "ize", "ify", "ates", "ises", "izes", "ifies")
PREPOSITIONS = _words("""above after against along among as at before below beside besides between beyond by for from
in into of on over per through to under until with within without""")
QUESTIONS = _words("what how which where who whose why whether")
DETERMINERS = _words("""a all an any both code each every his how it its no one our that the their them these this
those your""")
OTHERS = _words("""also although always and because but few half if just least less many more most much never not once
only or private same separate several since so some such than then though three twice two when while""")
SUBJECTS = _words("that which who it they we you he she and not never always also only then")
DIALECT = re.compile(
    r"\b(?:told|asked|anew|hangs? on|in company|at the door|the house|of its own|goes without saying|lacks"
    r"|(?:Error|None) where|where there (?:is|are)|(?:one|a) row an? \w+)\b"
)


def has_verb(docstring: str, whole: bool = False) -> bool:
    """Return whether the first sentence, or with `whole` any sentence, has a verb; lenient if English is ambiguous."""
    text = re.sub(r"``?[^`]*``?", " code ", " ".join(docstring.split()))
    text = re.sub(r"\b(e\.g|i\.e|cf|al|vs|etc)\.", r"\1", re.sub(r"\([^()]*\)", " ", text))
    sentences = [sentence for sentence in re.split(r"[.!?](?:\s+|$)", text) if sentence.strip()]
    return any(map(_sentence_has_verb, sentences if whole else sentences[:1]))


def _sentence_has_verb(sentence: str) -> bool:
    parts = [re.findall(r"[^\W\d_][\w'-]*", part.lower()) for part in re.split(r"[;:—–]\s", sentence)]
    if any(_is_imperative(part) for part in parts if part):
        return True
    opening = next((part[0] for part in parts if part), "")
    return sum(_is_finite(part, k) for part in parts for k in range(len(part))) > (opening in QUESTIONS)


def _is_imperative(words: list[str]) -> bool:
    """Return whether a clause opens with a verb; an unknown word before a determiner counts as one."""
    words = words[words[0].endswith("ly") and words[0] not in VERBS and len(words) > 1 :]
    word, following = words[0], words[1] if len(words) > 1 else "."
    if word in PREPOSITIONS | QUESTIONS | DETERMINERS | OTHERS or following == "of":
        return False
    if _base(word) in VERBS - NOUNS or (word in COMMANDS and following not in ("per", "for", "in", "by", ".")):
        return True
    return word.endswith(REGULAR) or following in DETERMINERS | {"from", "along", "until"}


def _is_finite(words: list[str], k: int) -> bool:
    """Return whether word k is a verb with a subject: an auxiliary, a known verb, or a word after a pronoun."""
    before, word, after = ["", *words, ""][k : k + 3]
    if word in FINITE or word.endswith("n't"):
        return True
    singular, known = _base(word) != word, _base(word) in VERBS
    if after == "of" and word not in ("consists", "consist"):
        return False
    if before in SUBJECTS and (known or (singular and before in ("that", "which", "who", "it"))):
        return True
    if (known or singular) and k and after in DETERMINERS and before not in DETERMINERS | PREPOSITIONS:
        return True
    if _base(word) in NOUNS:
        return False
    return k > 0 and (known or word.endswith(REGULAR[4:])) and (singular or before.endswith("s"))


def _base(word: str) -> str:
    """Return the base form of a verb in -s, else the word itself."""
    if not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    stem = word.removesuffix("s")
    return next((base for base in (stem, stem.removesuffix("e"), stem.removesuffix("ie") + "y") if base in VERBS), stem)


def problems(path: Path) -> Iterator[str]:
    """Yield one line per docstring without a verb or in dialect, and per function over LONGEST lines."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if not function and not isinstance(node, ast.Module | ast.ClassDef):
            continue
        line, name = getattr(node, "lineno", 1), getattr(node, "name", "the module")
        if (docstring := ast.get_docstring(node)) is not None:
            if not has_verb(docstring, whole=isinstance(node, ast.Module)):
                yield f"{line}: {name}: no verb in {docstring.splitlines()[:1]}"
            yield from (f"{line}: {name}: plain words for {word!r}" for word in DIALECT.findall(docstring))
        if function and (lines := _length(node)) > LONGEST:
            yield f"{line}: {name}: {lines} lines, at most {LONGEST}"


def _length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the lines from def to end; a page template, a long string other than the docstring, counts as one line."""
    docstring = function.body[0].value if isinstance(function.body[0], ast.Expr) else None
    strings = [node for node in ast.walk(function) if isinstance(node, ast.Constant | ast.JoinedStr)]
    templates = {k for node in strings if node is not docstring for k in range(node.lineno, node.end_lineno)}
    return function.end_lineno - function.lineno + 1 - len(templates)


def namesakes() -> dict[str, list[str]]:
    """Return the public functions and classes that several modules of rdt define, with those modules."""
    found = defaultdict(list)
    for path in files("rdt"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append(str(path.relative_to(ROOT)))
    return {name: paths for name, paths in found.items() if len(paths) > 1 and name not in PROTOCOL}


def imported(path: Path) -> Iterator[str]:
    """Yield the parts of every name that a file imports, and of the module that has it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for name in [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]:
                yield from name.split(".")


def files(*folders: str) -> list[Path]:
    """Return the Python files below these folders of the repository."""
    return sorted(file for folder in folders for file in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", files(*FOLDERS), ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_have_verbs_and_functions_are_short(path):
    assert not list(problems(path))


def test_no_two_modules_define_one_name():
    assert not namesakes()


def test_no_file_imports_tests():
    """Keep in tests/worlds what several files use."""
    found = {(path.name, name) for path in files(*FOLDERS) for name in imported(path)}
    assert not [pair for pair in found if pair[1].startswith("test_") or pair[1] == "conftest"]


SENTENCES = """
Return the rewards, shape (B,). | A policy gradient that learns from whole groups. | Clamp values. | Apply LoRA. |
Frobnicate each image. | Lazily load the model. | Splits an iteration's samples across ranks. | The loop stops at T. |
Functions return what they compute. | `python -m rdt.run`: train a model. | If no file exists, raise an error. |
Samples follow the distribution. | The prompts of a set state any subset. | It ranks the images. | What is stated
holds. | Sample images from a view. | Hold one round's queries. | Return T latents. | Run K steps without a gradient.
"""
PHRASES = """
Of B samples. | (B,). | What the oracle reads, one-hot. | The trained oracle. | One row per variant and metric. | How
far bf16 is from fp32. | In Markdown. | Scores of each prompt, (P,). | oracle.safetensors | Mean score per prompt.
"""


@pytest.mark.parametrize(("docstrings", "expected"), [(SENTENCES, True), (PHRASES, False)])
def test_sentences_have_verbs_and_headless_phrases_have_none(docstrings, expected):
    assert not [one for one in " ".join(docstrings.split()).split(" | ") if has_verb(one) is not expected]


def main() -> None:
    """Print the problems of the given paths, or of every file, and a count per file."""
    given = [path for name in sys.argv[1:] for path in (files(name) or [ROOT / name])] or files(*FOLDERS)
    found = {path.relative_to(ROOT): list(problems(path)) for path in given}
    for path, lines in found.items():
        print(*(f"{path}:{line}" for line in lines), sep="\n", end="\n" if lines else "")
    for name, paths in namesakes().items():
        print(f"{name}: defined in {', '.join(paths)}")
    print(*(f"{len(lines):4} {path}" for path, lines in found.items() if lines), sep="\n")
    print(f"{sum(map(len, found.values())):4} in all; {len(namesakes())} names are defined more than once")


if __name__ == "__main__":
    main()
