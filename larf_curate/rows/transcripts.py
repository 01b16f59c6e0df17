"""Conversations that a template has written out into one text, and how to take them apart again."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .tools import Message
from .turns import ROLES


@dataclass(frozen=True)
class Template:
    """A way to write a conversation as one text.

    Attributes:
        name: the name that people know it by, or its marks.
        begins: how a turn begins; the group `role` says whose it is.
        marks: a text without any of these has no turn, which is found out in far less time than by `begins`.
        ends: how a turn ends, where the template says so.
        words: what `role` may say beside the usual names, and who that is.
    """

    name: str
    begins: re.Pattern[str]
    marks: tuple[str, ...]
    ends: str = ""
    words: tuple[tuple[str, str], ...] = ()

    def may_be_in(self, text: str) -> bool:
        """Whether one of the marks stands in a text."""
        return any(mark in text for mark in self.marks)

    def role(self, word: str) -> str | None:
        """Who speaks: user, assistant, system or tool."""
        said = word.lower()
        return next((who for own, who in self.words if own == said), None) or ROLES.get(said.strip())


_ALPACA_WORDS = (("instruction", "user"), ("input", "user"), ("response", "assistant"), ("output", "assistant"))

TEMPLATES = (
    Template("\\n\\nHuman: / \\n\\nAssistant:", re.compile(r"(?:\A|\n\n)(?P<role>Human|Assistant): ?"),
             ("Human:", "Assistant:")),
    Template("### Instruction: / ### Response:",
             re.compile(r"(?:\A|\n)### ?(?P<role>Instruction|Input|Response|Output): ?\n?"), ("###",),
             words=_ALPACA_WORDS),
    Template("### Human: / ### Assistant:",
             re.compile(r"\s?### ?(?P<role>Human|User|Assistant|System): ?"), ("###",)),
    Template("<|im_start|>", re.compile(r"<\|im_start\|>(?P<role>\w+)\n"), ("<|im_start|>",), "<|im_end|>"),
    Template("<|start_header_id|>", re.compile(r"<\|start_header_id\|>(?P<role>\w+)<\|end_header_id\|>\n\n"),
             ("<|start_header_id|>",), "<|eot_id|>"),
    Template("<start_of_turn>", re.compile(r"<start_of_turn>(?P<role>\w+)\n"), ("<start_of_turn>",),
             "<end_of_turn>"),
    Template("[INST]", re.compile(r"(?:<s>)?\s?(?P<role>\[/?INST\]) ?"), ("INST]",), "</s>",
             (("[inst]", "user"), ("[/inst]", "assistant"))),
)  # fmt: skip
"""The templates that are known, in the order in which they are tried."""


def turns_in_text(text: str) -> list[Message]:
    r"""The turns of a transcript; none where the text is no transcript of a known template.

    What stands before the first turn is a system turn, but for tokens such as `<s>`; in hh-rlhf's transcripts, where
    nothing stands there, a text before the first speaker means that a dialogue is quoted, so there it is no transcript.

    >>> turns_in_text("### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n3")
    [{'role': 'user', 'content': 'Add.\n1 2'}, {'role': 'assistant', 'content': '3'}]
    >>> turns_in_text("Just a text.")
    []
    """
    for template in TEMPLATES:
        turns = _split(text, template)
        roles = {turn["role"] for turn in turns}
        if {"user", "assistant"} <= roles or (template is TEMPLATES[0] and turns):
            return turns
    return []


def template_in(text: str) -> str | None:
    r"""The name of the template whose marks stand in a text that should hold one turn; None where there are none.

    >>> template_in("Below is an instruction.\n\n### Instruction:\nAdd.\n\n### Response:\n")
    '### Instruction: / ### Response:'
    """
    for template in TEMPLATES[1:]:
        if template.may_be_in(text) and template.begins.search(text):
            return template.name
    human = re.search(r"(?:\A|\n\n)Human: ", text) if TEMPLATES[0].may_be_in(text) else None
    return TEMPLATES[0].name if human and text.find("\n\nAssistant:", human.end()) >= 0 else None


def _split(text: str, template: Template) -> list[Message]:
    matches = list(template.begins.finditer(text)) if template.may_be_in(text) else []
    if not matches:
        return []
    before = re.sub(r"\A(?:<s>|<bos>|<\|begin_of_text\|>|<\|endoftext\|>)", "", text[: matches[0].start()]).strip()
    if before and template is TEMPLATES[0]:
        return []
    turns: list[Message] = [{"role": "system", "content": before}] if before else []
    inputs: list[str] = []
    for match, end in zip(matches, [*(match.start() for match in matches[1:]), len(text)], strict=True):
        role = template.role(match["role"])
        if role is None:
            return []
        content = text[match.end() : end]
        content = content.split(template.ends)[0] if template.ends else content
        if turns and turns[-1]["role"] == role == "user" and match["role"].lower() == "input":
            inputs.append(content.strip())
            continue
        _join_inputs(turns, inputs)
        if not turns and (system := _SYSTEM.match(content)):
            turns.append({"role": "system", "content": system["text"].strip()})
            content = content[system.end() :]
        turns.append({"role": role, "content": content.strip()})
    _join_inputs(turns, inputs)
    return turns


def _join_inputs(turns: list[Message], inputs: list[str]) -> None:
    """Add the inputs that follow a request to it, all at once: adding them one by one would take quadratic time."""
    if inputs:
        turns[-1]["content"] = "\n".join([turns[-1]["content"], *inputs])
        inputs.clear()


_SYSTEM = re.compile(r"\s*<<SYS>>(?P<text>.*?)<</SYS>>", re.DOTALL)
"""How Llama 2 writes a system turn, inside the first user's."""
