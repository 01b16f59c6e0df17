"""Guard models as judges: models that were trained to say whether an answer is unsafe."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any

from ..cache import register
from ..encoding.memory import is_out_of_memory
from ..errors import ModelError
from ..models.devices import find_device
from ..models.loading import LoadedModel, load_model
from ..models.locating import locate
from ..models.options import ModelOptions
from ..progress import progress
from ..rows.template_abilities import TemplateAbilities
from .guard_forms import FORMS, GuardForm, GuardReading, form_of, form_of_kind
from .judging import Verdicts

_AT_ONCE = 16


class GuardJudge:
    """A guard model: Llama Guard 3 or 4, WildGuard, ShieldLM, or the HarmBench classifier.

    It is loaded when it is first asked, and removed from memory after its verdicts.

    Args:
        model: Hub id or directory, with the kind and a colon before it where the name does not tell the kind:
            `wildguard:/models/mine`.
        device: a torch device; the first that is there by default.
        dtype: see `ModelOptions`.

    Attributes:
        name: the model and its version.

    Raises:
        ModelError: the model is unknown, or its kind is.
    """

    def __init__(self, model: str, *, device: str | None = None, dtype: Any = "auto") -> None:
        kind, _, rest = model.partition(":")
        path = rest if kind in FORMS and rest else model
        form = form_of_kind(kind, path) if path is rest else form_of(model)
        if form is None:
            raise ModelError(
                f"{model} is no guard model that is known by its name: write its kind before it, {'|'.join(FORMS)}, "
                f"as in guard:wildguard:{model}"
            )
        self.form: GuardForm = form
        self._options = ModelOptions(path, device=device, dtype=dtype)
        self.name = f"{form.name} {path} ({locate(path).version[:16]})"

    def verdicts(self, prompts: Sequence[str], answers: Sequence[str]) -> Verdicts:
        """See `AnswerJudge`: an unsafe answer did what was asked."""
        readings = self.read(prompts, answers)
        del self._loaded  # it is as large as the model that it judges
        refused = tuple(reading.refused for reading in readings)
        says_refused = any(verdict is not None for verdict in refused)
        return Verdicts(tuple(reading.unsafe for reading in readings), refused if says_refused else None)

    def read(self, prompts: Sequence[str], answers: Sequence[str]) -> list[GuardReading]:
        """What the guard says of each answer; it stays in memory for more.

        Raises:
            ModelError: the model cannot be loaded, says something else of most answers, or runs out of memory.
        """
        from ..answering.answer_tokens import answer_text
        from ..answering.asking import answers_to

        loaded = self._loaded
        ids = [self.ids_of(loaded.tokenizer, *pair) for pair in zip(prompts, answers, strict=True)]
        try:
            with progress(len(ids), self.form.name, unit="answer") as update:
                said = answers_to(loaded, ids, self.form.answer_tokens, update=update, at_once=_AT_ONCE)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            longest = max(map(len, ids))
            raise ModelError(f"{self.name}: out of memory with answers of up to {longest:,} tokens") from error
        texts = [answer_text(loaded, answer) for answer in said]
        readings = [self.form.read(text) for text in texts]
        silent = [text for text, reading in zip(texts, readings, strict=True) if reading.unsafe is None]
        if 2 * len(silent) > len(readings):
            raise ModelError(
                f"{self.name} gives no verdict on {len(silent)} of {len(readings)} answers: {silent[0][:60]!r}"
            )
        return readings

    def ids_of(self, tokenizer: Any, prompt: str, answer: str) -> list[int]:
        """The token ids with which the guard is asked.

        Raises:
            ModelError: the guard's form is its chat template, and it has none.
        """
        prompt, answer = (_defused(tokenizer, text) for text in (prompt, answer))
        if self.form.text is not None:
            text = self.form.ask(prompt, answer)
            ids: list[int] = tokenizer.encode(text, add_special_tokens=self.form.adds_special_tokens)
            return ids
        if not tokenizer.chat_template:
            raise ModelError(f"{self.name} has no chat template, which is how a Llama Guard is asked")
        # Llama Guard 4 also looks at pictures: its template goes through the parts of a turn.
        messages = _abilities(tokenizer).formed(
            [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        )
        asked: list[int] = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        return asked

    @cached_property
    def _loaded(self) -> LoadedModel:
        return load_model(self._options, None, find_device(self._options.device))


@lru_cache(maxsize=1)
def _abilities(tokenizer: Any) -> TemplateAbilities:
    """What a tokenizer's chat template prints, found out once."""
    return TemplateAbilities(lambda messages, _: str(tokenizer.apply_chat_template(messages, tokenize=False)))


register(_abilities.cache_clear)


def _defused(tokenizer: Any, text: str) -> str:
    """The text with a space in every control token that it spells, so that no answer ends its own turn."""
    # Llama's headers are special among the added tokens, and not among those that the tokenizer has a name for.
    added = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    for token in sorted({*tokenizer.all_special_tokens, *added}, key=len, reverse=True):
        if len(token) > 1:
            text = text.replace(token, f"{token[0]} {token[1:]}")
    return text
