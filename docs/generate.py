"""Write the parts of these pages that are made from the code, so that they cannot go stale.

    python docs/generate.py            writes them
    python docs/generate.py --check    writes nothing; names the stale pages, and exits with 1 if there are any

A generated part stands between `<!-- generated: NAME ... -->` and `<!-- end of NAME -->`.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from typer.models import ArgumentInfo, OptionInfo, ParameterInfo

HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parent / "larf_curate"
_PART = re.compile(r"(<!-- generated: (\w+)[^>]*-->\n).*?(<!-- end of \2 -->)", re.DOTALL)


def first_line(path: Path) -> str:
    """The first line of a module's docstring."""
    begins = re.match(r'r?"""(.+)', path.read_text(encoding="utf-8"))
    if not begins:
        raise SystemExit(f"{path} has no docstring: its first line is what docs/architecture.md says of it")
    return begins[1].removesuffix('"""')


def order() -> list[str]:
    """The rooms in the order in which the data flows: that of imports, as docs/architecture.md has it."""
    page = (HERE / "architecture.md").read_text(encoding="utf-8")
    lines = re.findall(r"^    ([\w, ]+)$", page, re.MULTILINE)
    return [name for line in reversed(lines) for name in line.split(", ") if (PACKAGE / name).is_dir()]


def rooms() -> str:
    """Every room and every file, each with the first line of its docstring."""
    lines = []
    for room in order():
        lines += [f"**`{room}/`**: {first_line(PACKAGE / room / '__init__.py')}", "", *_files(PACKAGE / room), ""]
    lines += ["**Files outside the rooms**", "", *_files(PACKAGE)]
    return "\n".join(lines)


def _files(folder: Path) -> Iterator[str]:
    nested = () if folder == PACKAGE else folder.glob("*/*.py")
    for path in [*sorted(folder.glob("*.py")), *sorted(nested)]:
        if path.name != "__init__.py":
            yield f"- `{path.relative_to(PACKAGE)}`: {first_line(path)}"


def commands() -> str:
    """Every command with its arguments and options, in the words that `--help` uses."""
    from larf_curate.cli import app

    parts = []
    for command in app.registered_commands:
        function: Any = command.callback
        name = command.name or function.__name__.replace("_", "-")
        parameters = list(inspect.signature(function, eval_str=True).parameters.values())
        arguments = " ".join(one.name.upper() for one in parameters if isinstance(_declared(one), ArgumentInfo))
        lines = [f"## larf-curate {name}", "", inspect.cleandoc(function.__doc__), ""]
        lines += ["```console", f"$ larf-curate {name} {arguments} [OPTIONS]".replace("  ", " "), "```", ""]
        lines += ["| | default | meaning |", "| --- | --- | --- |", *map(_row, parameters)]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _declared(parameter: inspect.Parameter) -> ParameterInfo:
    """What the command says of a parameter: the second half of its `Annotated[type, Option(...)]`."""
    found: ParameterInfo = next(
        one for one in get_args(parameter.annotation) if isinstance(one, ArgumentInfo | OptionInfo)
    )
    return found


def _written(parameter: inspect.Parameter) -> list[str]:
    """The spellings of an option as its declaration has them: `--private/--public`, or `-q` and `--quiet`; or none."""
    declared = _declared(parameter)
    # Within `Annotated`, typer takes the first spelling for a default until it builds the command.
    return [one for one in (declared.default, *(declared.param_decls or ())) if isinstance(one, str)]


def spellings(parameter: inspect.Parameter) -> list[str]:
    """How an option is written on the command line: `--private` and `--public`, or `--drop-top`."""
    names = [name for one in _written(parameter) for name in one.split("/")]
    return names or [f"--{parameter.name.replace('_', '-')}"]


def _row(parameter: inspect.Parameter) -> str:
    declared, kind, default = _declared(parameter), get_args(parameter.annotation)[0], parameter.default
    names = [parameter.name.upper()] if isinstance(declared, ArgumentInfo) else spellings(parameter)
    meaning = str(declared.help or "")
    choices = [part for part in (kind, *get_args(kind)) if get_origin(part) is Literal]  # also within `... | None`
    if choices:
        meaning += f" One of {', '.join(f'`{choice}`' for choice in get_args(choices[0]))}."
    if kind is bool:
        either = any("/" in one for one in _written(parameter))
        shown = f"`{names[0] if default else names[1]}`" if either else "off"
    elif default is parameter.empty or default is ...:
        shown = "required"
    else:
        shown = "" if default is None else f"`{default}`"
    return f"| {' '.join(f'`{name}`' for name in names)} | {shown} | {meaning.strip()} |".replace("  ", " ")


def files() -> str:
    """Which kinds of files are read."""
    from larf_curate.sources.text_files import ARROW, COMPRESSED, CSV, JSON, PARQUET

    rows = [
        ("JSON", f"{_code(JSON)}, each also with {_code(COMPRESSED)}"),
        ("CSV", f"{_code(CSV)}, each also with {_code(COMPRESSED)}"),
        ("Parquet", f"`{PARQUET}`"),
        ("Arrow", f"{_code(ARROW)} (streams and files)"),
        ("a saved dataset", "a directory that `save_to_disk` has written (`--split`)"),
        ("a directory, or a downloaded repository of the Hub", "files of these kinds (`--split`, `--config`)"),
        ("a dataset on the Hub", "`owner/name` (`--split`, `--config`, in a recipe `revision`)"),
    ]
    return _table(("what", "endings"), rows)


def formats() -> str:
    """Every row format with its columns, and an example with the turns that it becomes."""
    from larf_curate.rows.formats import FORMATS

    rows = []
    for row_format in FORMATS.values():
        messages = row_format.convert(row_format.example).messages
        turns = "<br>".join(f"{message['role']}: {json.dumps(message['content'])[1:-1]}" for message in messages)
        example = f"`{json.dumps(row_format.example)}`"
        name = f"`{row_format.name}`" + ("" if row_format.detected else " (never by itself)")
        rows.append((name, _code(row_format.required), _code(row_format.optional), example, turns))
    return _table(("format", "required", "read where they are there", "example", "becomes"), rows)


def columns() -> str:
    """The names of columns that mean the same."""
    from larf_curate.rows import prompt_columns as names

    rows = [
        ("the request of a preference row", _code(names.PREFERENCE_PROMPTS)),
        ("what the request is about", _code(names.CONTEXT_COLUMNS)),
        ("the system turn", _code(names.SYSTEM_COLUMNS)),
        ("tools", _code(names.TOOLS_COLUMNS)),
        ("earlier exchanges, as pairs or as turns", _code(["history"])),
        *((f"`{usual}`, where there is none", _code([name])) for name, usual in names.ALIASES.items()),
    ]
    return _table(("meaning", "columns"), rows)


def roles() -> str:
    """What a role may be called."""
    from larf_curate.rows.turns import ROLES

    known = sorted(set(ROLES.values()), key=["system", "user", "assistant", "tool", "function_call"].index)
    meaning = {"function_call": "assistant, its content the calls as JSON"}
    rows = [(meaning.get(role, role), _code(name for name, whose in ROLES.items() if whose == role)) for role in known]
    return _table(("whose turn", "called"), rows)


def _code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines)


def pages() -> str:
    """Every page with its title and its first sentence."""
    lines = []
    for path in sorted(HERE.glob("*.md")):
        title, _, rest = path.read_text(encoding="utf-8").partition("\n")
        first = re.split(r"(?<=[.:])\s", " ".join(rest.split()), maxsplit=1)[0].rstrip(":")
        if path.name != "README.md":
            lines.append(f"- [{title.removeprefix('# ')}]({path.name}): {first.rstrip('.')}.")
    return "\n".join(lines)


def api() -> str:
    """Every public name with its signature and its docstring."""
    import larf_curate
    import larf_curate.datatrove

    parts = []
    for module in (larf_curate, larf_curate.datatrove):
        parts.append(f"## `{module.__name__}`")
        for name in module.__all__:
            if module is larf_curate or name not in larf_curate.__all__:
                parts += _described(name, getattr(module, name), "###")
    return "\n\n".join(parts)


def _described(name: str, value: Any, heading: str) -> Iterator[str]:
    yield f"{heading} `{name}`"
    with contextlib.suppress(ValueError, TypeError):
        if not (inspect.isclass(value) and issubclass(value, Exception)):
            written = re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(inspect.signature(value)))
            written = re.sub(r" at 0x[0-9a-f]+", "", written)  # of functions: another one in every process
            yield f"```python\n{name}{written}\n```"
    yield f"```text\n{inspect.cleandoc(inspect.getdoc(value) or '')}\n```"
    if inspect.isclass(value):
        ours = [base for base in inspect.getmro(value) if base.__module__.startswith("larf_curate.")]
        for method in dict.fromkeys(name for base in ours for name in vars(base)):
            function = inspect.getattr_static(value, method)
            plain = getattr(function, "__func__", function)
            if not method.startswith("_") and inspect.isfunction(plain):
                yield from _described(f"{name}.{method}", getattr(value, method), "####")


PARTS: dict[str, Callable[[], str]] = {
    "rooms": rooms,
    "commands": commands,
    "files": files,
    "formats": formats,
    "columns": columns,
    "roles": roles,
    "pages": pages,
    "api": api,
}


def written(page: str) -> str:
    """A page with its generated parts as they should be."""
    return _PART.sub(lambda part: f"{part[1]}\n{PARTS[part[2]]()}\n\n{part[3]}", page)


def stale() -> dict[Path, str]:
    """The pages whose generated parts differ from the code, and their right text."""
    found = {}
    for path in sorted(HERE.glob("*.md")):
        text = path.read_text(encoding="utf-8")
        if (right := written(text)) != text:
            found[path] = right
    return found


def main() -> None:
    """The command; see the top."""
    pages = stale()
    for path, text in pages.items():
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
        print(path.relative_to(HERE.parent))
    sys.exit("--check" in sys.argv and bool(pages))


if __name__ == "__main__":
    main()
