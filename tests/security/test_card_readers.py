"""Whoever keeps a repository, or writes a recipe or a category, cannot make a card act, grow or lose what it holds."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import HfApi
from markdown_it import MarkdownIt
from support.loopback_hub import Hub
from support.made_runs import sample_rows

from larf_curate import Recipe
from larf_curate.errors import PublishError, RecipeError
from larf_curate.inert import code_span
from larf_curate.publishing.card import CardRequest, render_card, split_card
from larf_curate.publishing.push_run import push_run
from larf_curate.publishing.write_report import write_report
from larf_curate.pushing import Destination

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 9)
)
HOSTILE_YAML = {
    "bomb": BOMB,
    "long bomb": f"a0: &a0 {'x' * 10_000}\na1: &a1 [{', '.join(['*a0'] * 1_000)}]\n",
    "itself": "a: &a [*a]",
    "deep": "a: " + "[" * 50_000,
    "deep lines": "a:\n  " + "- " * 20_000 + "x",
    "long": "a: b\n" * 200_000,
}


@pytest.mark.usefixtures("blank_pictures")
def test_addresses_in_rows_are_no_links_in_any_renderer(make_run) -> None:
    rows, scores = sample_rows()
    addresses = {"a": "https://example.org/x", "b": "www.example.org", "c": "me@example.org <!-- larf-curate:end -->"}
    run = make_run([{**row, "category": addresses[row["category"]]} for row in rows], scores)
    card = render_card(CardRequest("acme/clean", write_report(run), [], None, ["kept"]))
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(split_card(card)[1])
    for shown in ("https://example.org/x", "www.example.org", "me@example.org \\u003c!-- larf-curate:end -->"):
        assert f"<code>{shown.replace('>', '&gt;')}</code>" in html
    assert card.count("<!-- larf-curate:end -->") == 1


@pytest.mark.parametrize("text", ["`", "``", "a`b``c", "`a", "a`", "x | y", "a\\", "{{ a }}", "<b>", "\n#"])
def test_nothing_ends_a_code_span(text: str) -> None:
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(f"| a |\n| --- |\n| {code_span(text)} |")
    assert html.count("<code>") == html.count("<td>") == 1
    assert "<b>" not in html


@pytest.mark.parametrize("kind", HOSTILE_YAML)
def test_yaml_that_stands_for_more_than_it_says_is_refused_in_a_line(kind: str) -> None:
    text = HOSTILE_YAML[kind]
    with pytest.raises(RecipeError) as told:
        Recipe.from_text(text, "r.yaml")
    assert len(str(told.value)) < 300
    with pytest.raises(PublishError) as told_of_card:
        split_card(f"---\n{text}\n---\n")
    assert len(str(told_of_card.value)) < 500
    assert "\n" not in f"{told.value}{told_of_card.value}"


def test_an_alias_in_place_of_a_value_is_refused_in_a_line() -> None:
    text = (
        f"{BOMB[: BOMB.index('a5')]}source: {{path: x}}\nscorer: {{model: m, layer: *a4}}\nthreshold: {{drop_top: 1}}\n"
    )
    with pytest.raises(RecipeError) as told:
        Recipe.from_text(text + "output: o\n", "r.yaml")
    assert len(str(told.value)) < 2_000


def upload(hub: Hub, content: bytes) -> None:
    HfApi().create_repo("acme/clean", repo_type="dataset")
    hub.repos["acme/clean"].files["README.md"] = content


@pytest.mark.usefixtures("blank_pictures")
def test_metadata_behind_a_byte_order_mark_stays(plain_run: Path, hub: Hub) -> None:
    upload(hub, "\ufeff---\nlicense: mit\npretty_name: Mine\n---\n\n# Words of mine\n".encode())
    push_run(plain_run, Destination("acme/clean"))
    metadata, body = split_card(hub.repos["acme/clean"].files["README.md"].decode())
    assert (metadata["license"], metadata["pretty_name"]) == ("mit", "Mine")
    assert body.strip().startswith("# Words of mine")


@pytest.mark.parametrize(
    "content",
    ["# Mine\n".encode("utf-16"), b"# Mine\n" * 1_000_000, f"---\n{BOMB}---\n".encode()],
    ids=["UTF-16", "7 MB", "bomb"],
)
def test_a_readme_that_cannot_be_kept_whole_is_refused_and_stays(plain_run: Path, hub: Hub, content: bytes) -> None:
    upload(hub, content)
    before = dict(hub.repos["acme/clean"].files)
    with pytest.raises(PublishError, match=r"README\.md") as told:
        push_run(plain_run, Destination("acme/clean"))
    assert "\n" not in str(told.value)
    assert len(str(told.value)) < 500
    assert hub.repos["acme/clean"].files == before
