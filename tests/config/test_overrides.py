"""Any override gives a composed config with its value, or lines on stderr that say what is wrong; never a traceback."""

import io
import math
import os
import shlex
import sys
from contextlib import redirect_stderr, redirect_stdout

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from rdt import run
from rdt.config import quoting
from rdt.config.compose import check_words, composed
from rdt.config.plan import leaves
from rdt.errors import Refused, UsageError

EXAMPLES = int(os.environ.get("RDT_EXAMPLES", "15"))  # of each property that composes; more find more
SLOWLY = settings(
    max_examples=EXAMPLES, deadline=None, derandomize=EXAMPLES == 15, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
QUICKLY = settings(max_examples=150, deadline=None, derandomize=True, database=None)
KEYS = sorted({key for key, _ in leaves(composed("config"))} - {"dry_run"})
WORDS = st.text(st.characters(blacklist_categories=["Cs"]), max_size=12)
MEANT = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\n\0"), max_size=20)
VALUES = st.one_of(
    st.sampled_from([
        "null", "true", "false", "nan", "inf", "-inf", "0", "-1", "1e400", "9" * 30, "-" + "9" * 30, "1.5", "''", "???",
        "[]", "{}", "[1,2]", "[[1],[2]]", "[null]", "{a:1}", "[{a:1}]", "${seed}", "${nosuch}", "${method}", "text",
        "'${'", "${oc.env:NOSUCH}", "[${nosuch}]", "~/x", "/dev/null", "1,2", "_", "..", "hub:a/b", "bundled:nosuch",
    ]),
    WORDS,
)  # fmt: skip


@pytest.fixture
def answer(tmp_path, monkeypatch):
    """Return a function that plans a run with the words: (config or None, lines on stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RDT_TRACEBACK", raising=False)
    monkeypatch.setattr("rdt.weights.refusal", lambda place: "no answer")
    found: list[DictConfig] = []
    monkeypatch.setattr(run, "plan", lambda cfg: found.append(cfg) or "")

    def composed_or_refused(*words):
        found.clear()
        monkeypatch.setattr(sys, "argv", ["rdt run", *words, "dry_run=true"])
        out, err, status = io.StringIO(), io.StringIO(), 0
        with redirect_stdout(out), redirect_stderr(err):
            try:
                run.entry()
            except SystemExit as stop:
                status = stop.code
        lines = err.getvalue().splitlines()
        assert status in (0, None) or (status == 1 and lines), (words, status)
        assert all(line.startswith("error: ") for line in lines), lines
        return (found[0] if found else None), lines

    return composed_or_refused


def value_of(word: str):
    """Return what Hydra reads in an override."""
    return OverridesParser.create().parse_override(word).value()


@SLOWLY
@given(key=st.sampled_from(KEYS), value=VALUES)
def test_any_value_of_a_key_is_taken_or_refused(answer, key, value):
    cfg, lines = answer(f"{key}={value}")
    assert (cfg is None) == bool(lines), lines
    if cfg is not None and "${" not in value and key not in ("output_dir", "overrides"):
        wanted = OmegaConf.create({"value": value_of(f"{key}={value}")}).value
        assert OmegaConf.select(cfg, key) == wanted


SECTIONS = ("method", "reward", "model", "model.lora", "evaluation.judges", "guidance", "diversity.measures", "hydra")
PAIRS = st.builds("{}={}".format, WORDS, WORDS)
ADDED = st.builds("+{}.{}={}".format, st.sampled_from(SECTIONS), WORDS, VALUES)


@SLOWLY
@given(word=st.one_of(WORDS, PAIRS, ADDED))
def test_any_word_is_taken_or_refused(answer, word):
    if word in ("-h", "--help", "-m") or word.startswith(("-c", "--")):
        return  # options, which print or sweep
    answer(word)


@QUICKLY
@given(MEANT)
def test_the_corrected_word_gives_the_text_that_was_meant(text):
    """Pasted into a shell, it is one word, in which Hydra reads the text."""
    corrected = quoting.corrected(f"prompt={text}")
    if corrected is None or text[:1] in ("[", "{") or text.startswith("~/"):
        return
    (word,) = shlex.split(corrected)
    assert value_of(word) == text


@QUICKLY
@given(MEANT)
def test_a_text_that_hydra_refuses_is_always_corrected(text):
    try:
        check_words([f"prompt={text}"])
    except UsageError as error:
        assert "type " in str(error), error


@pytest.mark.parametrize(
    ("word", "typed"),
    [
        ("prompt=it's a circle", r'''"prompt=\"it's a circle\""'''),
        ("prompt=猫", "'prompt=\"猫\"'"),
        ("prompt=a (red:1.2) circle", "'prompt=\"a (red:1.2) circle\"'"),
        ("prompt=a, b", "'prompt=\"a, b\"'"),
        ('prompt=say "hi"', r'''"prompt='say \"hi\"'"'''),
        ("output_dir=runs/モデル", "'output_dir=\"runs/モデル\"'"),
        ("output_dir=run (1)", "'output_dir=\"run (1)\"'"),
        ("output_dir=lr=0.1", "'output_dir=\"lr=0.1\"'"),
        ("prompts.train_file=~/x", f"prompts.train_file={os.path.expanduser('~/x')}"),
        ("reward.url=http://h/s?m=a", "'reward.url=\"http://h/s?m=a\"'"),
        ("tags=[ü]", "'tags=[\"ü\"]'"),
        ("tags=[a,[b,ü],{c: ü}]", '\'tags=[a,[b,"ü"],{c:"ü"}]\''),
    ],
)
def test_a_word_that_needs_quotes_is_printed_with_them(word, typed):
    with pytest.raises(Refused) as raised:
        check_words([word])
    (fault,) = raised.value.faults
    assert fault.startswith(word) and f"type {typed}" in fault


def test_a_list_of_values_names_both_of_its_meanings():
    with pytest.raises(Refused, match=r"method=draft,sqdf gives several values; add -m to run each, or type"):
        check_words(["method=draft,sqdf"])
    check_words(["-m", "method=draft,sqdf"])
    with pytest.raises(Refused, match='type \'prompt="猫","犬"\''):
        check_words(["-m", "prompt=猫,犬"])


@pytest.mark.parametrize("word", ["sqdf", "=3", "a b=3", "modèle=3", "-x", "--nosuch"])
def test_what_is_no_override_is_one_line(word):
    with pytest.raises(UsageError, match=r"is not key=value|cannot be read|no key|neither an option"):
        check_words([word])


def test_all_faults_are_listed_at_once(answer):
    _, lines = answer(
        "seed=-1", "tags=['']", "output_dir=2024", "precision=fp16", "method.max_grad_norm=-1", "evaluation.grid=[4]",
        "evaluation.images_per_prompt=1", "logger.wandb.mode=foo", "model.lora=3", "method.lr=inf", "+method.gama=1",
        "reward._target_=nosuch.Reward", "diversity.measures.attributes.oracle=nosuch.safetensors",
    )  # fmt: skip
    for words in (
        "seed=-1 must be from 0 to", "tags=[''] must be a list of texts of 1 to 64 characters",
        "output_dir=2024 is an integer, expected a text; as a text it is 'output_dir=\"2024\"'",
        "precision=fp16 is not one of fp32, bf16; fp16 would need loss scaling",
        "method.max_grad_norm=-1 must be greater",
        "evaluation.grid=[4] must be a list of 2 integers",
        "evaluation.images_per_prompt=1: diversity.measures.features",
        "logger.wandb.mode=foo is not one of online, offline, disabled",
        "model.lora=3 is an integer, expected a section",
        "method.lr=inf is not a finite number",
        "method.gama=1: rdt.methods.sqdf.SQDF has no argument gama; did you mean",
        "reward._target_=nosuch.Reward cannot be imported: there is no module nosuch", "nosuch.safetensors",
    ):  # fmt: skip
        assert sum(words in line for line in lines) == 1, (words, lines)
    assert len(lines) == 13, lines


def test_a_value_that_is_not_finite_is_refused_for_every_number(answer):
    numbers = [key for key, value in leaves(composed("config")) if isinstance(value, float)]
    _, lines = answer(*(f"{key}=inf" for key in numbers))
    assert len(lines) == len(numbers) > 5 and all("is not a finite number" in line for line in lines)
    assert math.isinf(value_of("x=inf"))
