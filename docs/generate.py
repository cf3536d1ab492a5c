"""Writes the pages of docs/reference that are made from the code.

    python docs/generate.py            write them
    python docs/generate.py --check    exit 1 and name the ones that differ from the code

Error codes are found by reading the source, not by running it: every construction of an error has
its code as a literal, or its function is named in `BUILT_CODES`. Each code needs a sentence in
`docs/reference/errors.toml`.
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "doorstep"
REFERENCE = ROOT / "docs" / "reference"
SENTENCES = REFERENCE / "errors.toml"
COLUMNS = 100

BUILT_CODES = {
    "api/app.py:_http_error": ("no-route", "wrong-method", "too-large", "bad-request"),
    "release/decide.py:_refuse_invalid": ("cannot-promote", "not-paused"),
    "serve/fields.py:raise_found": ("bad-field", "missing-field", "extra-field"),
}
"""Codes that are not literals where the error is made, by file and function."""

DOCUMENT_READER = "decode_part"
"""Its last argument names the document; a broken one is `bad-<document>`."""

WIRE_CALLS = ("refusal", "_refuse", "_stop", "Refused", "WireError")
"""Functions of the data plane that answer with a code without raising."""
WIRE_TABLES = {
    "serve/path.py": ("timed-out", "unavailable", "model-failed"),
    "serve/site.py": ("bad-method",),
    "cli/main.py": ("internal-error",),
}
"""Codes that a module keeps in a table or prints itself."""


class Found(NamedTuple):
    """One place that makes an error. kind: of the DoorstepError, or "wire"."""

    code: str
    kind: str
    place: str
    message: str


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    asked.add_argument("--check", action="store_true", help="write nothing; exit 1 on differences")
    check = asked.parse_args().check
    problems = []
    for name, make in PAGES.items():
        try:
            text = make()
        except ValueError as error:
            problems.append(f"docs/reference/{name}: {error}")
            continue
        path = REFERENCE / name
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        if check:
            problems.append(f"docs/reference/{name} differs from the code; run: make docs")
        else:
            path.write_text(text, encoding="utf-8")
            print(f"wrote docs/reference/{name}")
    print(*problems, sep="\n", end="\n" if problems else "", file=sys.stderr)
    return 1 if problems else 0


def schema_page() -> str:
    from doorstep.core.servicefile_schema import schema_text

    return schema_text()


def service_file_page() -> str:
    from doorstep.core.servicefile_explain import declared, section_of

    lines = [
        "# Keys of the service file",
        "",
        "Made from the code by `make docs`. What they are for is in",
        "[the service file](../concepts/service-file.md). `[]` is each of a list, `NAME` a name of",
        "your own. A key without a default has to be written.",
    ]
    section = ""
    for key in declared():
        if section_of(key.path) != section:
            section = section_of(key.path)
            lines += ["", f"## {section}", "", "| key | what it is | written as | default |"]
            lines += ["|---|---|---|---|"]
        cells = (f"`{key.path}`", key.about, key.expected, key.why)
        lines.append("| " + " | ".join(one.replace("|", "\\|") for one in cells) + " |")
    return "\n".join(lines) + "\n"


def openapi_page() -> str:
    from doorstep.api.openapi import openapi
    from doorstep.operations import table

    document = openapi(table().values(), version("doorstep"))
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


# The command line.


def cli_page() -> str:
    import typer.main

    from doorstep.cli.main import build

    commands = [*_commands(typer.main.get_command(build()), ())]
    head = [
        "# Commands",
        "",
        "Made from the code by `make docs`. Data goes to standard output, everything else to",
        "standard error. `--json` prints the answer as JSON. Exit codes: 0 done or pass, 1 refused",
        "or fail, 2 wrong usage, 3 a fault of Doorstep's, 4 inconclusive or timed out waiting, 5",
        "not reachable or not signed in.",
        "",
        "Every command here is tested, and *stable* from 1.0 on; before that a minor release may",
        "change one, and the [changelog](../../CHANGELOG.md) says so.",
        "",
        "| command | what it does |",
        "|---|---|",
        *(
            f"| [`{_name(path)}`](#{_anchor(path)}) | {_first(one.help)} |"
            for path, one in commands
        ),
    ]
    return "\n".join([*head, *(_command(path, one) for path, one in commands)]) + "\n"


def _commands(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    inner: Mapping[str, Any] = getattr(command, "commands", {})
    if not inner:
        yield path, command
    for name, one in inner.items():
        yield from _commands(one, (*path, name))


def _name(path: tuple[str, ...]) -> str:
    return "doorstep " + " ".join(path)


def _anchor(path: tuple[str, ...]) -> str:
    return "-".join(("doorstep", *path))


def _first(text: str | None) -> str:
    return " ".join((text or "").partition("\n\n")[0].split())


def _command(path: tuple[str, ...], command: Any) -> str:
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name == "option"]
    usage = " ".join([_name(path), *map(_argument, arguments)])
    rest = "\n\n".join(" ".join(part.split()) for part in (command.help or "").split("\n\n"))
    lines = ["", f"## {_name(path)}", "", f"`{usage}`", "", rest]
    rows = [f"| `{_argument(one)}` | {_said(one)} |" for one in arguments]
    rows += [f"| `{_option(one)}` | {_said(one)} |" for one in options]
    if rows:
        lines += ["", "| | |", "|---|---|", *rows]
    return "\n".join(lines)


def _argument(one: Any) -> str:
    word = one.name.upper().replace("_", "-") + ("..." if one.nargs == -1 else "")
    return word if one.required else f"[{word}]"


def _option(one: Any) -> str:
    names = "/".join([", ".join(one.opts), *one.secondary_opts])
    return names if one.is_flag else f"{names} {one.name.upper().replace('_', '-')}"


def _said(one: Any) -> str:
    parts = [one.help or ""]
    if one.required and one.param_type_name == "option":
        parts.append("Required.")
    elif one.default not in (None, "", False, ()) and not callable(one.default):
        parts.append(f"Default: `{_default(one)}`.")
    return " ".join(part for part in parts if part).replace("|", "\\|")


def _default(one: Any) -> str:
    return str(one.opts[-1] if getattr(one, "is_flag", False) else one.default)


# The error codes.


def errors_page() -> str:
    """Raises: ValueError if a code has no sentence, or a sentence no code."""
    from doorstep.cli.main import EXIT_CODES
    from doorstep.kernel.http_status import STATUS

    found = sorted(set(find_errors(SOURCE)))
    sentences = tomllib.loads(SENTENCES.read_text(encoding="utf-8"))
    codes = sorted({one.code for one in found})
    _compare(set(codes), set(sentences))
    lines = [
        "# Error codes",
        "",
        "Made from the code by `make docs`. Every refusal has one of these codes, a message with",
        "the fact and what was expected, and a hint with the next step. Codes stay; words change.",
        "Where a message shows `…`, the value that was found stands there.",
        "",
        "| kind | exit code | HTTP status |",
        "|---|---|---|",
        *(f"| {kind} | {EXIT_CODES[kind]} | {status} |" for kind, status in STATUS.items()),
        "| wire: only from the data plane | | 400 to 504 |",
        "| error: a fault of Doorstep's | 3 | 500 |",
        "",
        "The data plane answers 422 to a request that does not fit the contract (400 over the Open",
        "Inference Protocol) and 503 where it is overloaded.",
        "",
    ]
    for code in codes:
        lines += _entry(code, sentences[code], [one for one in found if one.code == code])
    return "\n".join(lines)


def _compare(codes: set[str], sentences: set[str]) -> None:
    if missing := sorted(codes - sentences):
        raise ValueError(f"docs/reference/errors.toml has no sentence for: {', '.join(missing)}")
    if extra := sorted(sentences - codes):
        raise ValueError(f"docs/reference/errors.toml has codes that nothing raises: {extra}")


def _entry(code: str, sentence: str, places: list[Found]) -> list[str]:
    kinds = ", ".join(sorted({one.kind for one in places}))
    files = ", ".join(sorted({f"`{one.place}`" for one in places}))
    said = sorted({one.message for one in places if one.message.strip("…")})
    lines = [f"## {code}", "", f"{sentence} *{kinds}*, in {files}.", ""]
    if said:
        lines += ["```text", *said, "```", ""]
    return lines


def find_errors(source: Path) -> Iterator[Found]:
    """Every construction of an error in the modules of `source`, but those of the test kit."""
    kinds = _kinds()
    for path in sorted(source.rglob("*.py")):
        name = path.relative_to(source).as_posix()
        if name.startswith("testing/"):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for function, node in _calls(tree, ""):
            yield from _of_call(name, function, node, kinds)
        for code in WIRE_TABLES.get(name, ()):
            yield Found(code, "error" if code == "internal-error" else "wire", name, "")


def _kinds() -> dict[str, str]:
    from doorstep.core.errors import DoorstepError

    classes: list[type[DoorstepError]] = [DoorstepError, *DoorstepError.__subclasses__()]
    return {one.__name__: one.kind for one in classes}


def _calls(node: ast.AST, function: str) -> Iterator[tuple[str, ast.Call]]:
    """Each call with the innermost function that it stands in."""
    for inner in ast.iter_child_nodes(node):
        within = function
        if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
            within = inner.name
        if isinstance(inner, ast.Call):
            yield function, inner
        yield from _calls(inner, within)


def _of_call(name: str, function: str, node: ast.Call, kinds: Mapping[str, str]) -> Iterator[Found]:
    called = ast.unparse(node.func).rpartition(".")[2]
    if name.startswith("serve/") and called in WIRE_CALLS:
        texts = [one for one in node.args if not isinstance(getattr(one, "value", ""), int)]
        if texts and isinstance(texts[0], ast.Constant):
            yield Found(str(texts[0].value), "wire", name, _words(texts[1]))
        return
    if called == DOCUMENT_READER and isinstance(node.args[2], ast.Constant):
        yield Found("bad-" + str(node.args[2].value), "input", name, "")
        return
    kind = kinds.get(called)
    if function == DOCUMENT_READER:
        return
    if name == "core/errors.py" and called == "cls":
        kind = "missing-extra"
    if kind is None or not node.args:
        return
    message = _words(node.args[1]) if len(node.args) > 1 else ""
    literals = [*_literals(node.args[0])]
    built = BUILT_CODES.get(f"{name}:{function}", ())
    if not literals and not built:
        place = f"{name}:{function}"
        raise ValueError(f"line {node.lineno} of {place}: no literal code; add it to BUILT_CODES")
    for code in literals or built:
        yield Found(code, kind, name, message)


def _literals(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Constant):
        yield str(node.value)
    elif isinstance(node, ast.IfExp):
        yield from _literals(node.body)
        yield from _literals(node.orelse)


def _words(node: ast.expr) -> str:
    """The text that stands in the source, with … for what is filled in."""
    match node:
        case ast.Constant(value=str() as text):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(_words(part) for part in parts)
        case ast.FormattedValue():
            return "…"
        case ast.BinOp(op=ast.Add(), left=left, right=right):
            return _words(left) + _words(right)
        case ast.IfExp(body=body):
            return _words(body)
        case _:
            return "…"


PAGES: Mapping[str, Callable[[], str]] = {
    "doorstep.schema.json": schema_page,
    "cli.md": cli_page,
    "service-file.md": service_file_page,
    "errors.md": errors_page,
    "openapi.json": openapi_page,
}

if __name__ == "__main__":
    sys.exit(main())
