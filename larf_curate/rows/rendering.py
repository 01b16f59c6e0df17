"""A conversation becomes token ids, through the model's own chat template."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, TypeVar

from ..errors import Issue, ModelError, Unscorable
from .answer_characters import OwnText
from .template_abilities import TemplateAbilities
from .template_steps import TOO_MANY, limited
from .tools import Message
from .turns import TRAIN, Conversation

Overflow = Literal["truncate", "reject"]
Item = TypeVar("Item")
MOST_WORK = 4_000_000
"""Tokens rendered for one row that is rendered many times: a row that would take more is `too_long`."""
OWN_TURNS = "own"
"""Key of a message on its way to a template: the turns of the row that it is made of. Templates never see it."""

# Some templates (Llama 3.2, SmolLM3) print today's date, and a score must not depend on the day it is computed. The
# empty expression at the end keeps Jinja from trimming the template's own first line.
_FIXED_DATE = (
    "{% macro strftime_now(pattern) %}{{ pattern | replace('%d', '26') | replace('%b', 'Jul') | replace('%B', 'July') "
    "| replace('%m', '07') | replace('%Y', '2024') | replace('%A', 'Friday') }}{% endmacro %}{{ '' }}"
)


@dataclass(frozen=True)
class Rendered:
    """Token ids (at most `max_tokens` of them), the count before truncation, and `truncated` or None."""

    ids: list[int]
    tokens: int
    issue: Issue | None


class Renderer:
    """Renders conversations without a generation prompt, so that the last token is the end of the answer's turn.

    Literal control tokens inside a row are encoded as the plain text they are, so no row can forge a turn. What the
    chat template cannot express (a system turn, tools, calls, results) is put into words instead of dropped.

    Raises:
        ModelError: the tokenizer has no chat template.
    """

    def __init__(self, tokenizer: Any, max_tokens: int, overflow: Overflow = "truncate") -> None:
        if not tokenizer.chat_template:
            raise ModelError(
                f"{tokenizer.name_or_path} has no chat template, so no token ends an answer's turn; "
                "use the model's instruction-tuned version, or pass chat_template= (--chat-template FILE)"
            )
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.overflow: Overflow = overflow

    @cached_property
    def template_digest(self) -> str:
        template = self.tokenizer.chat_template
        text = template if isinstance(template, str) else json.dumps(template, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def render(self, conversation: Conversation) -> Rendered:
        """Token ids of one conversation; the middle is cut where they exceed `max_tokens`, the end always survives.

        Raises:
            Unscorable: the template refuses the conversation, or it is too long under overflow="reject".
        """
        ids, *_ = self.encode_whole(conversation)
        return Rendered(self.fit_in(ids), len(ids), Issue.TRUNCATED if len(ids) > self.max_tokens else None)

    def encode_whole(self, conversation: Conversation) -> tuple[list[int], list[Message], list[Any] | None]:
        """Token ids of one conversation without truncation, and the messages and tools that the template was given.

        Raises:
            Unscorable: the template refuses the conversation.
        """
        numbered = enumerate(conversation.messages, -conversation.inserted)
        own = tuple({**message, OWN_TURNS: [OwnText(turn, message["content"])]} for turn, message in numbered)
        messages, tools = self._template.express(replace(conversation, messages=own))
        try:
            return self._encode(messages, tools), messages, tools
        except Unscorable:  # templates that want the roles to alternate may take neighbours as one turn
            joined = _joined(messages)
            if len(joined) == len(messages):
                raise
            return self._encode(joined, tools), joined, tools

    def fit_in(self, items: list[Item]) -> list[Item]:
        """A conversation's tokens, or any list with one item for each token, cut to `max_tokens`.

        Raises:
            Unscorable: there are more, under overflow="reject".
        """
        if len(items) <= self.max_tokens:
            return items
        if self.overflow == "reject":
            raise Unscorable(Issue.TOO_LONG)
        head = self.max_tokens // 2
        return items[:head] + items[len(items) - (self.max_tokens - head) :]

    def encode_up_to(self, messages: Sequence[Message], tools: Any, *, opened: bool = False) -> list[int]:
        """Token ids of the first messages of a conversation, as `encode_whole` returned them.

        Args:
            messages: some messages from the first on.
            tools: the tools of the conversation, as the template takes them.
            opened: whether to add what the template prints before an answer.

        Raises:
            Unscorable: the template refuses these alone.
        """
        return self._encode(list(messages), tools, add_generation_prompt=opened)

    def check_template(self) -> None:
        """Find out whether the chat template prints what a conversation says.

        Raises:
            ModelError: it prints nothing of what users, or assistants, say.
        """
        self._template.check()

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids of the tokenizer's control tokens, which no text of a row encodes to."""
        return frozenset(self.tokenizer.added_tokens_decoder)

    @cached_property
    def _template(self) -> TemplateAbilities:
        return TemplateAbilities(lambda messages, tools: str(self._apply(messages, tools, tokenize=False)))

    def render_prompt(self, prompt: str) -> list[int]:
        """Token ids of a user's turn and of what opens the answer's, so that generation can begin; never cut.

        Raises:
            Unscorable: the template refuses it, or it is no text.
        """
        return self._encode([_user(prompt)], None, add_generation_prompt=True)

    def _encode(self, messages: list[Message], tools: list[dict[str, Any]] | None, **options: Any) -> list[int]:
        ids: list[int]
        messages = [
            {key: value for key, value in message.items() if key not in (TRAIN, OWN_TURNS)} for message in messages
        ]
        try:  # the tokenizer's own complaint about lone surrogates is a bare TypeError
            for message in messages:
                message["content"].encode()
        except UnicodeEncodeError:
            raise Unscorable(Issue.WRONG_TYPE) from None
        messages = self._template.formed(messages)
        try:
            # transformers sanitises values alone: a key that holds a control token loses its spelling.
            keyed = self._defused(messages, values=False), self._defused(tools, values=False)
            ids = self._apply(*keyed, sanitize_control_tokens=True, **options)
        except (ValueError, NotImplementedError):
            try:  # this tokenizer cannot encode its control tokens as text: break their spelling everywhere
                ids = self._apply(self._defused(messages), self._defused(tools), **options)
            except ValueError:
                raise Unscorable(Issue.TEMPLATE) from None
        return ids

    def _apply(self, messages: Any, tools: Any, **options: Any) -> Any:
        from jinja2 import TemplateError

        template, limit = limited(self.tokenizer.get_chat_template(None, tools), messages, tools)
        if "strftime_now" in template:
            template = _FIXED_DATE + template
        try:
            return self.tokenizer.apply_chat_template(
                messages,
                tools=tools,
                chat_template=template,
                **limit,
                **{"tokenize": True, "return_dict": False, **options},
            )
        except TemplateError as error:  # the template's own raise_exception, or ours
            raise Unscorable(Issue.TOO_SLOW if TOO_MANY in str(error) else Issue.TEMPLATE) from None
        except (TypeError, AttributeError, LookupError, ArithmeticError, RecursionError):
            # A template is a program, and it fails on messages of this shape.
            raise Unscorable(Issue.TEMPLATE) from None

    @cached_property
    def _control_tokens(self) -> re.Pattern[str]:
        contents = [
            token.content for token in self.tokenizer.added_tokens_decoder.values() if not token.content.isspace()
        ]
        return re.compile("|".join(map(re.escape, sorted(contents, key=len, reverse=True))) or r"(?!)")

    def _defused(self, value: Any, *, values: bool = True) -> Any:
        """A copy with a space inside every control token, in keys and, if `values`, in texts."""
        if isinstance(value, str):
            return self._broken(value) if values else value
        if isinstance(value, dict):
            return {self._broken(key): self._defused(item, values=values) for key, item in value.items()}
        return [self._defused(item, values=values) for item in value] if isinstance(value, list) else value

    def _broken(self, text: str) -> str:
        return self._control_tokens.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)


def _joined(messages: list[Message]) -> list[Message]:
    """Neighbouring turns of one role, without calls, as one turn."""
    joined: list[Message] = []
    for message in messages:
        last = joined[-1] if joined else {}
        if last.get("role") == message["role"] and not last.get("tool_calls") and not message.get("tool_calls"):
            joined[-1] = {
                **message,
                **last,
                "content": "\n\n".join(filter(None, (last["content"], message["content"]))),
                OWN_TURNS: [*last.get(OWN_TURNS, ()), *message.get(OWN_TURNS, ())],
            }
            if last.get(TRAIN, True) or message.get(TRAIN, True):
                joined[-1].pop(TRAIN, None)
        else:
            joined.append(message)
    return joined


def _user(content: str) -> Message:
    return {"role": "user", "content": content}
