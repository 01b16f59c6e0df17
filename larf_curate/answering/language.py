"""Which script a text is in, and whether it is English: what a judge that reads English words has to know."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

_WORD = re.compile(r"[^\W\d_]+")
_FUNCTION_WORDS = {
    "en": "the of and to in is that it for you on with as are this be at have from or an not what by we can your if "
    "they will all there how do i my would could should a was but has them their so no yes me he she its about when "
    "which who more some any than then first here sorry just like make get up out into over only",
    "de": "der die das und ist nicht ein eine zu den von mit sich auf für im dem es ich sie wir auch als bei kann wie "
    "oder wenn dass aus des einen einer nur noch",
    "fr": "le la les de des et est un une que qui dans pour pas sur avec ce il je vous nous au du en ne se plus par "
    "mais ou sont cette",
    "es": "el la los las de y que en un una es por con para no se lo del al como su más pero si está son esta puedo",
    "it": "il lo la gli di e che un una è per con non si del della sono come più ma questo questa posso nel alla",
    "pt": "o os as de e que um uma é por com para não se do da como mais mas em no na são este esta posso você",
    "nl": "de het een en van is dat niet te in op zijn met voor ik je maar ook als aan er om kan dit die deze worden",
}
_LISTS = {language: frozenset(words.split()) for language, words in _FUNCTION_WORDS.items()}
_MOST_LETTERS = 0.9
_FEW_WORDS = 4  # so short a text need not hold a function word


def script_of(text: str) -> str:
    """The script of most of a text's letters, as Unicode names it; empty where there are no letters.

    >>> script_of("Guten Tag"), script_of("Добрый день"), script_of("42")
    ('LATIN', 'CYRILLIC', '')
    """
    scripts = Counter(unicodedata.name(letter, "?").partition(" ")[0] for letter in text if letter.isalpha())
    return scripts.most_common(1)[0][0] if scripts else ""


def is_english(text: str) -> bool:
    """Whether a text can be read by rules for English words: it is in Latin letters, and in no other language we know.

    Short texts without a function word of any language count as English. Known beside it are German, French, Spanish,
    Italian, Portuguese and Dutch, by their most frequent words.

    >>> is_english("I can't help with that."), is_english("Dabei kann ich leider nicht helfen, das ist verboten.")
    (True, False)
    """
    letters = [letter for letter in text if letter.isalpha()]
    if not letters:
        return True
    if sum(letter.isascii() for letter in letters) < _MOST_LETTERS * len(letters):
        return False
    words = _WORD.findall(text.lower())
    counts = {language: sum(word in known for word in words) for language, known in _LISTS.items()}
    others = max(count for language, count in counts.items() if language != "en")
    if counts["en"] == 0 and others == 0:
        return len(words) <= _FEW_WORDS or script_of(text) == "LATIN"
    return counts["en"] >= others
