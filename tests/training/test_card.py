"""A model card shows names and prompts as text: they make no markup, no HTML, no column and no key of its YAML."""

import ast
from dataclasses import replace

import pytest
import yaml
from markdown_it import MarkdownIt
from omegaconf import open_dict

from rdt import result
from rdt.report.read import read_run
from rdt.training.card import card
from worlds.run_folders import write_run
from worlds.smallest_run import minimal

PAYLOADS = (
    'x"](javascript:alert(1)) <img src=x onerror=alert(1)> ![](http://evil/track.png)',
    "a circle\n\n# heading\n\n---\nlicense: evil",
    "m]\nlicense: evil",
    "a | b \\| c `|` d",
    "``` <script>alert(1)</script> ```",
    "[/red] \x1b]0;title\x07 \u202e \r\n| --- |",
    '")\nimport os; os.system("touch x")  # {cfg.seed} {0} %s',
    "",
)


def page(tmp_path, text):
    """Return the front matter and the Markdown of a card in which every name and prompt is a text."""
    write_run(tmp_path / "run", compute={"images": 960})
    found = read_run(tmp_path / "run").result
    points = tuple(replace(point, guidance={"name": text}) for point in found.points)
    cfg = minimal(tmp_path / "never")
    with open_dict(cfg):
        cfg.method.name = cfg.reward.name = cfg.model.name = cfg.push_to_hub = text
        cfg.model.policy.source = f"hub:{text}"
    _, front, body = card(cfg, replace(found, points=points), [text, "a circle"]).split("---\n", 2)
    return yaml.safe_load(front), body


@pytest.mark.parametrize("text", PAYLOADS)
def test_words_make_no_markup(tmp_path, text):
    front, body = page(tmp_path, text)
    assert set(front) <= {"library_name", "pipeline_tag", "base_model", "tags", "model-index"}
    assert front["tags"] == ["lora", "text-to-image", "rdt", *[" ".join(text.split())] * 2]
    tokens = MarkdownIt("commonmark").enable("table").parse(body)
    inline = [child for token in tokens for child in token.children or ()]
    assert [child.attrs["src"] for child in inline if child.type == "image"] == ["base.png", "tuned.png"]
    assert not {"html_inline", "link_open", "strong_open", "em_open"} & {child.type for child in inline}
    assert not {"html_block", "fence", "hr"} & {token.type for token in tokens}
    headings = [token.tag for token in tokens if token.type == "heading_open"]
    assert headings == ["h1", "h2", "h2", "h2"]
    rows = sum(token.type == "tr_open" for token in tokens)
    assert sum(token.type in ("td_open", "th_open") for token in tokens) == 4 * rows > 0
    assert body.isprintable() or all(c.isprintable() or c == "\n" for c in body)


@pytest.mark.parametrize("text", PAYLOADS)
def test_the_lines_to_copy_are_an_import_two_calls_and_the_command(tmp_path, text):
    tokens = MarkdownIt().parse(page(tmp_path, text)[1])
    block, command = [token.content for token in tokens if token.type == "code_block"]
    library, pipe, load = ast.parse(block).body
    assert ast.unparse(library) == "import diffusers" and command.startswith("python -m rdt.run ")
    assert ast.unparse(pipe.value.func) == "diffusers.DiffusionPipeline.from_pretrained"
    assert ast.unparse(load.value.func) == "pipe.load_lora_weights"
    assert all(isinstance(call.value.args[0], ast.Constant) for call in (pipe, load))
    assert len(pipe.value.args) == 1 and {word.arg for word in pipe.value.keywords} <= {"revision"}


def test_a_card_states_differences_the_hacking_gap_and_how_to_draw_with_a_bundled_base(tmp_path):
    write_run(tmp_path / "run", shift={"reward/hps": 0.05, "reward/gold": -0.04}, compute={"images": 960})
    words = card(minimal(tmp_path / "out"), result.read(tmp_path / "run"), ["a circle"])
    assert "|  | `base` | `tuned` | difference |" in words and "[+0.0" in words
    assert "it was hacked" in words and "`hacking_gap`" in words
    assert f"rdt sample run={tmp_path / 'out'} prompt=" in words and "from_pretrained" not in words
    metrics = yaml.safe_load(words.split("---\n")[1])["model-index"][0]["results"][0]["metrics"]
    assert {one["type"] for one in metrics} >= {"reward/hps", "diversity/entropy", "hacking_gap"}


def test_a_card_pins_the_revision_of_its_base(tmp_path):
    write_run(tmp_path / "run", compute={"images": 960})
    cfg = minimal(tmp_path / "out")
    with open_dict(cfg):
        cfg.model.policy.source = "hub:owner/name@abc"
    tokens = MarkdownIt().parse(card(cfg, result.read(tmp_path / "run"), ["a circle"]))
    block = next(token.content for token in tokens if token.type == "code_block")
    assert 'from_pretrained("owner/name", revision="abc")' in block and 'load_lora_weights(".")' in block
