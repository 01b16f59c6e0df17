"""Which script a text is in, and whether it is English: what a judge that reads English words has to know."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

_WORD = re.compile(r"[^\W\d_]+")
_QUOTED = re.compile('"[^"]*"|\u201c[^\u201d]*\u201d|\u00ab[^\u00bb]*\u00bb')
"""Who explains or translates quotes another language."""
_FUNCTION_WORDS = {
    "en": "the of and to in is that it for you on with as are this be at have from or an not what by we can your if "
    "they will all there how do i my would could should a was but has them their so no yes me he she its about when "
    "which who more some any than then first here sorry just like make get up out into over only without why where "
    "does did were these those because before after through while every our us may must very",
    "de": "der die das und ist nicht ein eine zu den von mit sich auf für im dem es ich sie wir auch als bei kann wie "
    "oder wenn dass aus des einen einer nur noch",
    "fr": "le la les de des et est un une que qui dans pour pas sur avec ce il je vous nous au du en ne se plus par "
    "mais ou sont cette",
    "es": "el la los las de y que en un una es por con para no se lo del al como su más pero si está son esta puedo",
    "it": "il lo la gli di e che un una è per con non si del della sono come più ma questo questa posso nel alla",
    "pt": "o os as de e que um uma é por com para não se do da como mais mas em no na são este esta posso você",
    "nl": "de het een en van is dat niet te in op zijn met voor ik je maar ook als aan er om kan dit die deze worden",
    "sv": "och att det som en på är av för med till den har inte om ett jag kan du vi var men eller från hur",
    "da": "og at det er en til på som af for med den ikke har jeg kan du vi om et men eller fra hvordan",
    "no": "og å det er en til på som av for med den ikke har jeg kan du vi om et men eller fra hvordan",
    "fi": "ja on ei se en että hän kun mutta tai olen voi mitä kuin niin ole tämä jos voin sinua",
    "pl": "nie to się na do jest że jak ale tak co przez od po dla czy ten w z i o mogę jestem tym",
    "cs": "je se na že to v s z do jsem ale jak tak pro by co nebo mohu tím nemohu ne jako aby",
    "ro": "și în nu de la cu pe este un o să ce mai din pentru care sau dar pot îmi că",
    "hu": "a az és nem hogy egy van ez is meg csak de ha vagy ezt kell tudok ebben lehet",
    "tr": "bir ve bu için ile ne de da çok daha gibi ben o mi var yok nas\u0131l olarak değil konuda",
    "id": "yang dan di itu dengan untuk tidak ini dari dalam saya akan bisa pada adalah atau anda ke maaf",
    "tl": "ang na sa ng mga ko hindi ito ay ako mo kung para at po upang dahil",
    "ca": "el els les de i que en un una és per amb no es però aquesta aquest puc et us al més com",
    "vi": "không và là của có cho tôi với này được các một những trong bạn thể",
}
_LISTS = {language: frozenset(words.split()) for language, words in _FUNCTION_WORDS.items()}
_MOST_LETTERS = 0.9
_FEW_WORDS = 8  # so short a text need not hold a function word
_RAREST = 12  # one word in so many is a function word, in the longest lists of names
_FOREIGN = 3  # function words of another language, which no quotation or title has


def script_of(text: str) -> str:
    """The script of most of a text's letters, as Unicode names it; empty where there are no letters.

    Kana counts as CJK: Japanese writes both, now more of the one and now more of the other.

    >>> script_of("Guten Tag"), script_of("Добрый день"), script_of("42"), script_of("\u3067\u304d\u307e\u305b\u3093")
    ('LATIN', 'CYRILLIC', '', 'CJK')
    """
    scripts = Counter(_script_of_letter(letter) for letter in text if letter.isalpha())
    return scripts.most_common(1)[0][0] if scripts else ""


def _script_of_letter(letter: str) -> str:
    name = unicodedata.name(letter, "?")
    return "CJK" if "KATAKANA" in name or "HIRAGANA" in name else name.partition(" ")[0]


def is_english(text: str) -> bool:
    """Whether a text can be read by rules for English words: in Latin letters, and with English function words.

    Texts without a function word of any known language, such as lists of names, count as English. Known beside it are
    nineteen languages of Europe and Asia, by their most frequent words; texts in most others hold some of these too.

    >>> is_english("I can't help with that."), is_english("Dabei kann ich leider nicht helfen, das ist verboten.")
    (True, False)
    """
    letters = [letter for letter in text if letter.isalpha()]
    if not letters:
        return True
    if sum(letter.isascii() for letter in letters) < _MOST_LETTERS * len(letters):
        return False
    words = _WORD.findall(text.lower())
    counts = _function_words(words)
    others = max(count for language, count in counts.items() if language != "en")
    rare = len(words) > _FEW_WORDS and _RAREST * counts["en"] < len(words)
    return counts["en"] >= others and not (rare and others)


def is_other_language(prompt: str, answer: str) -> bool:
    """Whether an answer is plainly in another language than its prompt, both in Latin letters.

    >>> is_other_language("How do I bake bread?", "Dabei kann ich leider nicht helfen, das ist verboten.")
    True
    >>> is_other_language("How do I say thank you to a German?", "Say danke.")
    False
    """
    asked, said = (_function_words(_WORD.findall(_QUOTED.sub(" ", text.lower()))) for text in (prompt, answer))
    languages = [language for language, count in asked.items() if count == max(asked.values())]
    most = max(said.values())
    return max(asked.values()) > 1 and most >= _FOREIGN and all(2 * said[language] < most for language in languages)


def _function_words(words: list[str]) -> dict[str, int]:
    """How many of the words are function words, by language."""
    return {language: sum(word in known for word in words) for language, known in _LISTS.items()}
