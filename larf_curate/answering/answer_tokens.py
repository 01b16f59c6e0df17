"""Token ids of answers: their text, and which of them end one."""

from __future__ import annotations

from ..models.loading import LoadedModel


def answer_text(loaded: LoadedModel, answer: list[int]) -> str:
    """The text of an answer's token ids. The text of its first tokens is a prefix of the whole text."""
    decoded: str = loaded.tokenizer.decode(answer, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return decoded


def end_tokens(loaded: LoadedModel) -> set[int]:
    """The tokens that end an answer."""
    config = getattr(loaded.model, "generation_config", None)
    configured = getattr(config, "eos_token_id", None)
    several = configured if isinstance(configured, list) else [configured]
    return {int(token) for token in (*several, loaded.tokenizer.eos_token_id) if token is not None}
