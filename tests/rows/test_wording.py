"""The form of an answer, on texts judged by hand."""

from __future__ import annotations

import pytest

from larf_curate.rows.wording import ends_complete, holds_list, list_items


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("", 0),
        ("One sentence. Two - with a dash.", 0),
        ("- one", 1),
        ("- one\n- two", 2),
        ("* one\n\n* two\n\n* three", 3),
        ("\u2022 one\n\u2013 two", 2),
        ("1. one\n2. two\n10. ten", 3),
        ("1) one\n(2) two", 2),
        ("Steps:\n\n  1. one\n     - inside\n  2. two\n\nDone.", 3),
        ("1. one\r\n2. two", 2),
        ("-one\n*two*\n**three** four", 0),
        ("3.14 is pi\n1999. A year.\n-5 degrees", 0),
        ("Item 1. is\nitem - two", 0),
    ],
)
def test_list_items(text: str, items: int) -> None:
    assert list_items(text) == items
    assert holds_list(text) == (items > 1)


@pytest.mark.parametrize(
    "text",
    [
        "Done.",
        "Done.  \n",
        "Really?",
        "Yes!",
        "As follows:",
        "(so)",
        "\u201cyes\u201d",
        "```\nx = 1\n```",
        "x = [1]",
        "42",
        "And so on\u2026",
        "\u5b8c\u4e86\u3002",
        "\u771f\u7684\uff1f",
        "**bold**",
        "| a | b |",
    ],
)
def test_finished_text(text: str) -> None:
    assert ends_complete(text)


@pytest.mark.parametrize(
    "text", ["", " ", "and then the", "one, two,", "1. one\n2. tw", "Finished. Not", "a -", "Sure. \n\nNext"]
)
def test_cut_off_text(text: str) -> None:
    assert not ends_complete(text)
