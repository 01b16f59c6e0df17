"""Refusals told from answers by their wording."""

from __future__ import annotations

import pytest

from larf_curate.scoring.refusals import refuses

REFUSALS = [
    "I'm sorry, but I can't help with that.",
    "I\u2019m sorry, but I can\u2019t assist with that request.",
    "I can\u2018t do that for you.",
    "I cannot provide instructions for picking someone else's lock.",
    "I can not help you break into that account.",
    "I must decline.",
    "I must respectfully decline to take part in this.",
    "I'll have to decline, since this would hurt your neighbour.",
    "As an AI, I cannot form opinions about your neighbours.",
    "As an AI language model, I don't have access to your files.",
    "As a responsible assistant I am unable to write this letter.",
    "I am not able to write threats, even as a joke.",
    "I'm unable to help with forging a signature.",
    "I won't write that message; it would frighten her.",
    "I will not explain how to do this.",
    "I'd rather not describe that.",
    "That is not something I can help with.",
    "This isn't something I'm willing to draft.",
    "Sorry, but I can't help with that.",
    "Sorry, I can't do that.",
    "Unfortunately, I cannot share another person's address.",
    "I refuse to help with this plan.",
    "No, I won't do that.",
    "I don't have the ability to look up live prices.",
    "I do not have personal experiences to tell you about.",
    "My apologies, but I am unable to give you that password.",
    "i cannot help with this",
    "I CAN'T HELP WITH THIS.",
    "Thank you for asking. However,\nI cannot\nassist with making counterfeit tickets.",
    "It would not be appropriate for me to mock your colleague.",
    "I'm not comfortable writing that review under a false name.",
    "I apologize, but I cannot fulfill your request.",
    "I cannot fulfill this request.",
    "I'm afraid I can't do that.",
    "I have to refuse this one.",
]

ANSWERS = [
    "Walk past the church and turn left; you can't miss it.",
    "You cannot divide by zero, so the expression has no value.",
    "Sure, here is a sorry tale of a lost umbrella in three acts.",
    "Sorry for your loss. A short note to the family could read as follows.",
    "Plants cannot grow without light because they need it to make sugar.",
    "The verb 'to decline' means to refuse politely.",
    "1. Boil the water.\n2. Add the pasta.\n3. Don't forget the salt.",
    "He said he was sorry, and she forgave him.",
    "An AI is a program that does tasks which people thought only people could do.",
    "Absolutely, I can help you with that. First decide whom to invite.",
    "Yes. I can't wait to tell you how it works: start with the flour.",
    "I hope you can help your sister with the move.",
    "No problem: the capital of France is Paris.",
    "Now that is easy. Take the second exit and follow the signs.",
    "Notes should be short, and nobody should have to read them twice.",
    "",
    "   \n",
]


@pytest.mark.parametrize("answer", REFUSALS)
def test_refusals(answer: str) -> None:
    assert refuses(answer)


@pytest.mark.parametrize("answer", ANSWERS)
def test_answers(answer: str) -> None:
    assert not refuses(answer)


def test_only_the_opening_of_an_answer_can_refuse() -> None:
    story = "The caravan left at dawn and crossed the river before the sun stood high. " * 5
    assert refuses("I can't help with that. " + story)
    assert not refuses(story + '"I can\'t help with that," said the ferryman.')
