"""Prompts come out of the files that benchmarks and people have, or one line says why not."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from larf_curate.answering.prompts import choose_prompts, harmful_requests, over_rejection_prompts, read_prompts
from larf_curate.errors import PromptsError
from larf_curate.packaged import packaged_rows
from larf_curate.scoring.references import ReferenceSet

WANTED = ["How do I one?", "Tell me, please: two, and three", "¿Cómo?"]
JBB = "Index,Goal,Target,Behavior,Category,Source\n" + "".join(
    f'{number},"{prompt}",Sure,Title {number},Harm,Original\n' for number, prompt in enumerate(WANTED)
)
FILES: dict[str, str | bytes] = {
    "lines.txt": "\n".join(WANTED) + "\n\n",
    "no_suffix": "\r\n".join(WANTED),
    "jbb.csv": JBB,
    "harmbench.csv": "Behavior,Tags\n" + "".join(f'"{prompt}",x\n' for prompt in WANTED),
    "directharm.jsonl": "".join(json.dumps({"category": "a", "instruction": p}) + "\n" for p in WANTED),
    "array.json": json.dumps([{"prompt": prompt} for prompt in WANTED], indent=2),
    "strings.json": json.dumps(WANTED),
    "tabs.tsv": "id\tprompt\n" + "".join(f"{n}\t{prompt}\n" for n, prompt in enumerate(WANTED)),
    "other_names.jsonl": "".join(
        json.dumps({"Goal": None, name: p}) + "\n"
        for name, p in zip(("prompt", "question", "text"), WANTED, strict=True)
    ),
    "bom.txt": "\ufeff" + "\n".join(WANTED),
    "twice.txt": "\n".join(WANTED + WANTED),
    "semicolons.csv": "\ufeffid;Goal\r\n" + "".join(f"{n};{prompt}\r\n" for n, prompt in enumerate(WANTED)),
    "delimiters_alone.csv": "goal,id\n" + "".join(f'"{prompt}",1\n,\n' for prompt in WANTED) + " ,\n",
    "utf16.txt": ("\ufeff" + "\r\n".join(WANTED)).encode("utf-16-le"),
    "either.csv": "goal,prompt\n" + "".join(f',"{prompt}"\n' for prompt in WANTED),
}


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_gives_the_same_prompts(name, tmp_path):
    path = tmp_path / name
    content = FILES[name]
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert read_prompts(path) == WANTED


def test_a_column_that_is_named(tmp_path):
    path = tmp_path / "jbb.csv"
    path.write_text(JBB)
    assert read_prompts(path, "Behavior") == ["Title 0", "Title 1", "Title 2"]
    assert read_prompts(f"{path}:Behavior") == ["Title 0", "Title 1", "Title 2"]
    with pytest.raises(PromptsError, match="no column 'other'; there are Index, Goal"):
        read_prompts(f"{path}:other")
    (tmp_path / "odd:name.txt").write_text("One?\n")
    assert read_prompts(tmp_path / "odd:name.txt") == ["One?"]


def test_a_contextual_behavior_of_harmbench_is_asked_with_its_context(tmp_path):
    """Without the text that it is about, "the file below" is about nothing."""
    header = "Behavior,FunctionalCategory,SemanticCategory,Tags,ContextString,BehaviorID\n"
    rows = '"Do as chapter 1 says, now",contextual,illegal,context,"Chapter 1\n\nThe lab.",a_1\n'
    rows += "Rob a bank,standard,illegal,,,b_2\n"
    (tmp_path / "harmbench.csv").write_text(header + rows)
    wanted = ["Chapter 1\n\nThe lab.\n\n---\n\nDo as chapter 1 says, now", "Rob a bank"]
    assert read_prompts(tmp_path / "harmbench.csv") == wanted
    row = {"ContextString": "Chapter 1", "Behavior": "Do as it says", "prompt": None}
    (tmp_path / "harmbench.jsonl").write_text(json.dumps(row))
    assert read_prompts(tmp_path / "harmbench.jsonl") == ["Chapter 1\n\n---\n\nDo as it says"]


@pytest.mark.parametrize("name", ["x.txt", "x.csv", "x.tsv"])
def test_a_line_ends_where_files_end_lines_and_not_at_other_marks_of_unicode(name, tmp_path):
    prompts = ["How\u2028do I?", "Tell\x0cme", "And\x85so on", "\x1cfirst"]
    (tmp_path / name).write_text("\n".join(["prompt", *prompts]), newline="")
    assert [prompt for prompt in read_prompts(tmp_path / name) if prompt != "prompt"] == [
        prompt.strip() for prompt in prompts
    ]


def test_prompts_may_come_from_anything_that_gives_texts():
    asked = choose_prompts(f"Request {number}?" for number in range(20))
    assert len(asked.prompts) == 20
    for wrong in (7, {"a": "b"}, b"text"):
        with pytest.raises(PromptsError, match="a file or a list of texts, not"):
            choose_prompts(wrong)


def test_a_long_prompt_in_a_table_is_read(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("prompt\n" + "a" * 200_000)
    assert read_prompts(path) == ["a" * 200_000]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.txt", b"\n \n", "holds no prompt"),
        ("x.csv", b"a,b\n1,2\n", r"line 2: no column of these: goal, .*there are a, b"),
        ("x.csv", b"goal,b\nhi,2\n  ,3\n", "line 3: the prompt is empty"),
        ("x.jsonl", b'{"prompt": "a"}\n{"prompt": 7}\n', "line 2: int where a text is wanted"),
        ("x.jsonl", b'{"prompt": "a"}\n{"prompt": \n', "line 2: broken JSON"),
        ("x.txt", b"caf\xe9", "byte 4 is not UTF-8"),
        ("x.parquet", b"PAR1", "not read from .parquet files"),
        ("x.csv", b"prompt\nHow do I one, and two?\n", "line 2: the number of fields is 2, and 1 in the header"),
        ("x.csv", b"id,prompt\n1\n", "line 2: the number of fields is 1, and 2 in the header"),
        ("x.csv", b'prompt\n"How do I\none?\n', "line 3: unexpected end of data: look at the double quotes"),
        ("x.csv", b"prompt,prompt\na,b\n", "two columns are called 'prompt'"),
        ("x.json", b'{\n "prompts": ["a"]\n}', "no column of these: .*there are prompts; name one: FILE:COLUMN"),
    ],
)
def test_what_cannot_be_read_is_said(name, content, words, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(PromptsError, match=words):
        read_prompts(path)
    with pytest.raises(PromptsError, match="cannot be read"):
        read_prompts(tmp_path / "nothing.txt")


def test_the_packaged_prompts_that_only_sound_harmful():
    prompts = over_rejection_prompts()
    assert len(prompts) == len(set(prompts)) >= 120
    assert not {pair.safe.prompt for pair in ReferenceSet.packaged().pairs} & set(prompts)


@pytest.mark.slow
def test_the_packaged_requests_are_many_kinds_and_nobody_elses():
    rows = packaged_rows("harmful_requests.jsonl")
    prompts = harmful_requests()
    assert len(set(prompts)) == 200
    categories = Counter(row["category"] for row in rows)
    assert len(categories) == 14
    assert min(categories.values()) >= 14
    assert len({row["form"] for row in rows}) >= 12
    references = {pair.safe.prompt for pair in ReferenceSet.packaged().pairs}
    assert not {_words(text) for text in prompts} & {_words(text) for text in references}
    assert max(_overlap(prompt, other) for prompt in prompts for other in references) < 0.6


def _words(text: str) -> frozenset[str]:
    return frozenset(word.strip(".,?!'\"").lower() for word in text.split())


def _overlap(one: str, other: str) -> float:
    """Shared words over all words of two texts."""
    return len(_words(one) & _words(other)) / len(_words(one) | _words(other))
