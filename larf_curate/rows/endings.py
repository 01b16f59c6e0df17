"""Invisible ends of answers: white space, and characters that print nothing."""

from __future__ import annotations


def _characters(*ranges: tuple[int, int]) -> str:
    return "".join(chr(code) for first, last in ranges for code in range(first, last + 1))


_SELECTORS = _characters((0xFE00, 0xFE0F), (0xE0100, 0xE01EF))
"""Variation selectors choose the form of the character before them: a red heart is a heart and one of these."""
_TAGS = _characters((0xE0000, 0xE007F))
"""Tag characters, which print nothing; after a black flag they name the region whose flag it is."""
_FLAG = "\U0001f3f4"
_BLANK = _characters(
    (0x00, 0x20),
    (0x7F, 0xA0),  # controls, and the space that does not break
    (0xAD, 0xAD),  # soft hyphen
    (0x034F, 0x034F),
    (0x061C, 0x061C),
    (0x115F, 0x1160),  # fillers of Hangul
    (0x1680, 0x1680),
    (0x17B4, 0x17B5),
    (0x180B, 0x180F),
    (0x2000, 0x200F),  # spaces, zero-width space and joiners, marks of direction
    (0x2028, 0x202F),
    (0x205F, 0x206F),
    (0x2800, 0x2800),  # Braille without a dot
    (0x3000, 0x3000),
    (0x3164, 0x3164),
    (0xFEFF, 0xFEFF),
    (0xFFA0, 0xFFA0),
    (0xFFF9, 0xFFFB),
    (0x1BCA0, 0x1BCA3),
    (0x1D173, 0x1D17A),
)
"""White space, controls, and what Unicode calls default-ignorable, apart from selectors and tags."""


def without_blank_end(text: str) -> str:
    r"""The text up to the last character that a reader sees.

    An invisible ending teaches nothing, but a model's state after the last token, and so the score, would depend on it.
    What belongs to the last character stays: the selector of an emoji, the letters of a flag, and whatever
    stands within the text, such as the joiners of an emoji of several persons.

    >>> without_blank_end("Done.\n\n \u200b\ufeff"), without_blank_end(" \u200b ")
    ('Done.', '')
    """
    while True:
        text = text.rstrip(_BLANK)
        body = text.rstrip(_SELECTORS + _TAGS)
        if body == text:
            return text
        following = text[len(body)]
        if body.endswith(_FLAG) and following in _TAGS:
            return text
        if body and body[-1] not in _BLANK:
            return body + following if following in _SELECTORS else body
        text = body
