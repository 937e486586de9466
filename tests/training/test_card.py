"""A model card shows names and prompts as text: they make no markup, no HTML, no column and no key of its YAML."""

import ast
from dataclasses import replace

import pytest
import yaml
from markdown_it import MarkdownIt
from omegaconf import open_dict

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
    assert set(front) <= {"library_name", "pipeline_tag", "base_model", "tags"}
    assert front["tags"] == ["lora", "text-to-image", "rdt", *[" ".join(text.split())] * 2]
    tokens = MarkdownIt("commonmark").enable("table").parse(body)
    inline = [child for token in tokens for child in token.children or ()]
    assert [child.attrs["src"] for child in inline if child.type == "image"] == ["base.png", "tuned.png"]
    assert not {"html_inline", "link_open", "strong_open", "em_open"} & {child.type for child in inline}
    assert not {"html_block", "fence", "hr"} & {token.type for token in tokens}
    headings = [token.tag for token in tokens if token.type == "heading_open"]
    assert headings == ["h1", "h2", "h2"]
    rows = sum(token.type == "tr_open" for token in tokens)
    assert sum(token.type in ("td_open", "th_open") for token in tokens) == 3 * rows > 0
    assert body.isprintable() or all(c.isprintable() or c == "\n" for c in body)


@pytest.mark.parametrize("text", PAYLOADS)
def test_the_lines_to_copy_are_the_two_calls_and_no_more(tmp_path, text):
    tokens = MarkdownIt().parse(page(tmp_path, text)[1])
    (block,) = [token.content for token in tokens if token.type == "code_block"]
    pipe, load = ast.parse(block).body
    assert ast.unparse(pipe.value.func) == "diffusers.DiffusionPipeline.from_pretrained"
    assert ast.unparse(load.value.func) == "pipe.load_lora_weights"
    assert all(isinstance(call.value.args[0], ast.Constant) for call in (pipe, load))
