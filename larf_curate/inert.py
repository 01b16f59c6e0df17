r"""Text from rows, columns and other people's cards, made inert: it is shown as text and nothing in it acts.

>>> print(markdown("<img src=x> [a](javascript:b) | `c` {{ d }}"))
&lt;img src\=x&gt; \[a\]\(javascript\:b\) \| \`c\` \{\{ d \}\}
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable, Sequence

from markupsafe import Markup

_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")
_UNSAFE = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))


def visible(text: str, width: int, *, lines: bool = False) -> str:
    r"""Cut a text to `width` characters, with control, format and bidirectional characters written as `\uXXXX`.

    Args:
        text: any.
        width: characters of the result; a longer one ends in an ellipsis.
        lines: keep line ends and tabs; else all white space becomes single spaces.

    >>> visible("a\u202eb\0 \n c" + "d" * 50, 20)
    'a\\u202eb\\u0000 cddd…'
    """
    cut = text[: 8 * width]
    shown = "".join(_shown(character, lines) for character in (cut if lines else " ".join(cut.split())))
    return shown if len(shown) <= width and len(text) <= 8 * width else shown[: width - 1] + "…"


def _shown(character: str, lines: bool) -> str:
    if lines and character in "\n\t":
        return character
    return f"\\u{ord(character):04x}" if unicodedata.category(character) in _UNSAFE else character


def markdown(text: str, width: int = 200) -> Markup:
    """Escape a text for one line of Markdown, also in a table: no HTML, link, image, emphasis, fence or template stays.

    A backslash makes any ASCII punctuation literal (CommonMark, section 2.4), and ends automatic links. Angle brackets,
    ampersands and quotes become entities, for renderers that look for HTML first.
    """
    escaped = _PUNCTUATION.sub(r"\\\1", visible(text, width))
    for character in "&<>\"'":
        escaped = escaped.replace("\\" + character, html.escape(character))
    return Markup(escaped)  # noqa: S704 - this is what makes it safe


def code_span(text: str, width: int = 200) -> Markup:
    r"""A text as code in one line of Markdown: renderers that make links of bare addresses leave code alone.

    Nothing can be escaped in code. So the characters that end a cell of a table, open a tag or a comment, or begin a
    template are written as `\uXXXX`.

    >>> print(code_span("www.example.org | <b>`x`"))
    `` www.example.org \u007c \u003cb>`x` ``
    """
    shown = re.sub(r"[|<{}]", lambda match: f"\\u{ord(match[0]):04x}", visible(text, width).strip())
    if not shown:
        return Markup()
    ticks = "`" * (max((len(run) for run in re.findall("`+", shown)), default=0) + 1)
    before, after = (" " if shown[end] == "`" else "" for end in (0, -1))
    return Markup(f"{ticks}{before or after}{shown}{after or before}{ticks}")  # noqa: S704 - as above


def fenced(text: str, language: str = "", width: int = 100_000) -> Markup:
    """A Markdown code block that nothing in the text can end."""
    body = visible(text, width, lines=True).rstrip("\n")
    longest = max((len(run) for run in re.findall("`+", body)), default=0)
    fence = "`" * max(3, longest + 1)
    return Markup(f"{fence}{language}\n{body}\n{fence}")  # noqa: S704


def html_table(
    title: str, head: Sequence[str], rows: Iterable[Sequence[str]], width: int = 500, title_width: int = 500
) -> str:
    r"""A table for a notebook's cell. It takes the notebook's own colours, and nothing in its texts acts.

    >>> html_table("a <b>", ("x",), [["<script>"]]).count("<script>")
    0

    Args:
        title: stands above it; empty for none.
        head: names of the columns; empty for none.
        rows: texts, one for each column.
        width: characters of a text at most.
        title_width: characters of the title at most.
    """

    def cells(texts: Sequence[str], tag: str) -> str:
        style = ' style="text-align: left; vertical-align: top; white-space: pre-wrap"'
        shown = (html.escape(visible(text, width, lines=True)) for text in texts)
        return f"<tr>{''.join(f'<{tag}{style}>{text}</{tag}>' for text in shown)}</tr>"

    first = f"<thead>{cells(head, 'th')}</thead>" if head else ""
    body = "".join(cells(row, "td") for row in rows)
    above = f"<p><b>{html.escape(visible(title, title_width))}</b></p>" if title else ""
    return f"{above}<table>{first}<tbody>{body}</tbody></table>"
