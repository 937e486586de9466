"""`rdt sample` takes any prompt as it is typed, and names its picture after all that decides it."""

from itertools import product

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from PIL import Image

from rdt import sample
from rdt.config.compose import composed
from rdt.sample import QUOTED, as_typed, check_out, file_name

PROMPTS = ["it's a circle", "猫", "a, b", "a (red:1.2) circle", 'say "hi"', "${seed} $x", "[a]", "{a: 1}", "a=b", "5",
           "null", "a\\", "\\'", "two\nlines", "'a' and 'b'"]  # fmt: skip


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_prompt_arrives_as_it_was_typed(prompt):
    assert composed("sample", as_typed(f"prompt={prompt}")).prompt == prompt


@given(st.one_of(st.text(st.characters(codec="utf-8")), st.text("\\'\"${}a, ")).filter(lambda text: text != "???"))
def test_every_text_arrives_as_it_was_typed(text):
    value = OverridesParser.create().parse_override(as_typed(f"prompt={text}")).value()
    assert QUOTED.fullmatch(text) or OmegaConf.create({"prompt": value}).prompt == text


def test_quotation_marks_around_the_whole_prompt_are_those_of_hydra():
    for typed in ("'a, b'", '"a, b"'):
        assert composed("sample", as_typed(f"prompt={typed}")).prompt == "a, b"
    assert as_typed("n=4") == "n=4" and as_typed("guidance.curve=[1,2]") == "guidance.curve=[1,2]"


@pytest.mark.parametrize("path", ["runs/モデル", "run (1)", "lr=0.1/a,b", "kl[0.1]"])
def test_a_path_arrives_as_it_was_typed(path):
    cfg = composed("sample", as_typed(f"run={path}"), as_typed(f"out={path}/x.png"))
    assert (cfg.run, cfg.out) == (path, f"{path}/x.png")
    assert as_typed("out=null") == "out=null" and as_typed("out=${run}/x.png") == "out=${run}/x.png"


def test_pictures_have_different_names_if_anything_that_decides_them_differs():
    long = "a very long prompt " * 9
    guidances = [], ["guidance=aig"], ["guidance=aig", "guidance.power=3"]
    configs = [composed("sample", *guidance) for guidance in guidances]
    prompts = ("猫", "犬", "a b", "a-b", f"{long}1", f"{long}2")
    names = {
        file_name(OmegaConf.merge(cfg, {"prompt": prompt, "seed": seed, "n": n}))
        for cfg, prompt, seed, n in product(configs, prompts, (0, 1), (4, 16))
    }
    assert len(names) == 6 * 2 * 2 * 3 and max(map(len, names)) < 100


def test_a_file_that_cannot_be_the_picture_is_refused_before_anything_else(tmp_path):
    (tmp_path / "file").touch()
    for out, words in {
        "": "is a folder",
        "x.gif": "end it in one of .png",
        "x": "end it",
        "file/x.png": "file",
    }.items():
        with pytest.raises(ValueError, match=words):
            check_out(tmp_path / out)
        with pytest.raises(ValueError, match=words):  # although there is no run
            sample.sample(composed("sample", "prompt=a", f"out={tmp_path / out}", f"run={tmp_path / 'none'}"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_ending_decides_the_format(run_folder, tmp_path, answered):
    words = [f"run={run_folder}", "prompt=it's a (red) circle", "n=1", f"out={tmp_path / 'x.JPG'}"]
    status, out, err = answered(sample.entry, *words)
    assert (status, out) == (0, f"{tmp_path / 'x.JPG'}\n"), err
    with Image.open(tmp_path / "x.JPG") as image:
        assert image.format == "JPEG"


@pytest.mark.parametrize(
    ("prompt", "noted"), [("a red circle", ""), ("a red 猫", "'猫' is not a word of the shapes world")]
)
def test_a_word_that_the_world_does_not_draw_is_noted(prompt, noted, capsys):
    sample.note_unknown_words(composed("config"), prompt)
    said = capsys.readouterr().err
    assert noted in said and bool(said) == bool(noted)
