"""Write what the docs take from the code: settings, metrics, topics, fields, reasons, commands.

A page has places for it, each between ``<!-- generated: NAME -->`` and ``<!-- end -->``. From the
checkout ``python deploy/reference.py`` rewrites them; ``--check`` only says which pages differ.
"""

import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import msgspec
import typer.main
from prometheus_client.metrics import MetricWrapperBase
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from stream_app import cli, event, metrics
from stream_app.config import Settings, StageSettings, TopicSettings

ROOT = Path(__file__).resolve().parents[1]
PLACE = re.compile(r"(<!-- generated: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
BILLION = 1e9
NAME_PATTERN = "^[A-Za-z0-9._-]"

Schema = Mapping[str, Any]


def table(*rows: tuple[str, ...]) -> str:
    """Return a table in Markdown; the first row is its head."""
    head, *body = rows
    lines = [_row(head), "|---" * len(head) + "|", *map(_row, body)]
    return "\n".join(lines) + "\n"


def _row(cells: tuple[str, ...]) -> str:
    safe = (cell.replace("|", "\\|") for cell in cells)
    return "|" + "|".join(f" {cell} " if cell else " " for cell in safe) + "|"


def sentence(text: str | None) -> str:
    """Return a description on one line, without the full stop at its end."""
    return " ".join((text or "").replace("``", "`").split()).removesuffix(".")


def code(*values: object) -> str:
    """Return values as they are written in settings and JSON."""
    shown = (str(value).lower() if isinstance(value, bool) else str(value) for value in values)
    return ", ".join(f"`{value}`" for value in shown)


def number(value: float) -> str:
    """Return a limit as it is read: with commas, powers of ten from a billion on."""
    if value >= BILLION:
        return f"{value:.0e}".replace("1e+", "10^")
    return f"{value:,.10g}"


# --- limits, out of a JSON schema ---------------------------------------------------------------


def allowed(schema: Schema) -> str:
    """Return in words what values a JSON schema lets through; empty where there is no limit."""
    if "anyOf" in schema:
        parts = [allowed(part) for part in schema["anyOf"] if part.get("type") != "null"]
        return " or ".join(dict.fromkeys(part for part in parts if part))
    if "enum" in schema:
        return code(*schema["enum"])
    words: dict[str, Callable[[Schema], str]] = {
        "array": _list,
        "boolean": lambda _: "true or false",
        "integer": _range,
        "number": _range,
        "string": _text,
    }
    say = words.get(schema.get("type", ""))
    return say(schema) if say else "a table"


def _list(schema: Schema) -> str:
    each = (allowed(schema["items"]) or "text").removeprefix("a ")
    return f"a list of {each}" + ("s" if each in {"number", "table", "text"} else "")


def _text(schema: Schema) -> str:
    if schema.get("format") == "date-time":
        return "RFC 3339 with an offset"
    if schema.get("format") == "path":
        return "a path"
    if schema.get("pattern", "").startswith(NAME_PATTERN):
        return "letters, digits, `.`, `_`, `-`"
    least, most = schema.get("minLength", 0), schema.get("maxLength")
    if most is None:
        return ""
    return f"{most} characters" if least == most else f"to {most:,} characters"


def _range(schema: Schema) -> str:
    least, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    most, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    if least is not None and most is not None:
        return f"{number(least)} to {number(most)}"
    low = [f"from {number(least)}"] if least is not None else []
    low += [f"above {number(above)}"] if above is not None else []
    high = [f"to {number(most)}"] if most is not None else []
    high += [f"below {number(below)}"] if below is not None else []
    kind = {"integer": "whole number"}.get(schema.get("type", ""), "number")
    return ", ".join(low + high) or kind


# --- what the places hold -----------------------------------------------------------------------


def default(field: FieldInfo) -> str:
    """Return the default of a setting."""
    value = field.default
    if isinstance(value, BaseModel | dict):
        return "a table"
    if isinstance(value, frozenset):
        return code(*sorted(value))
    if isinstance(value, tuple):
        return code(*value)
    return {None: "none", "": "empty"}.get(value) or code(value)


def settings(model: type[BaseModel]) -> str:
    """Return the table of one class of settings."""
    schemas = model.model_json_schema()["properties"]
    rows = [
        (code(name), default(field), allowed(schemas[name]), sentence(field.description))
        for name, field in model.model_fields.items()
    ]
    return table(("setting", "default", "allowed", "meaning"), *rows)


def topics() -> str:
    """Return the table of the topics' settings; all are names, so there is nothing to allow."""
    rows = [
        (code(name), default(field), sentence(field.description))
        for name, field in TopicSettings.model_fields.items()
    ]
    return table(("setting", "default", "meaning"), *rows)


def fields(record: type[msgspec.Struct], *, sent: bool = False) -> str:
    """Return the table of a record's fields, from its JSON schema; what is sent has all of them."""
    schema = msgspec.json.schema(record)["$defs"][record.__name__]
    required = schema.get("required", [])
    rows = []
    for name, field in schema["properties"].items():
        parts = [field, *field.get("anyOf", [])]
        described = next((part["description"] for part in parts if "description" in part), "")
        limits = allowed(field)
        needed = "required" if name in required and not sent else ""
        rows.append((code(name), ", ".join(filter(None, (needed, limits))), sentence(described)))
    return table(("field", "value" if sent else "limits", "what"), *rows)


def outputs() -> str:
    """Return the fields of what is sent to the output topics, a heading for each record."""
    records = (event.Recommendation, event.RankedItem, event.Cause)
    parts = [
        f"#### {record.__name__}\n\n{_about(record)}\n\n{fields(record, sent=True)}"
        for record in (*records, event.Prediction, event.ChurnAlert)
    ]
    return "\n".join(parts)


def _about(record: type) -> str:
    """Return a record's docstring, its paragraphs on a line each."""
    paragraphs = (inspect.getdoc(record) or "").replace("``", "`").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def reasons() -> str:
    """Return the table of reject reasons: in the source each has a comment behind it."""
    said = dict(re.findall(r'^    "(\w+)",\s+# (.+)$', inspect.getsource(event), re.MULTILINE))
    rows = [(code(reason), said[reason]) for reason in event.REJECT_REASONS]
    return table(("reason", "when"), *rows)


def collectors() -> Iterator[tuple[str, str, tuple[str, ...], str]]:
    """Yield name, type, labels and help of each metric."""
    for collector in vars(metrics).values():
        if isinstance(collector, MetricWrapperBase):
            (metric,) = collector.describe()
            suffix = {"counter": "_total", "info": "_info"}.get(metric.type, "")
            labels = tuple(collector._labelnames)  # noqa: SLF001 - there is no public way
            yield metric.name + suffix, metric.type, labels, metric.documentation


def metrics_table() -> str:
    """Return the table of all metrics."""
    rows = [
        (code(name), kind, code(*labels), sentence(said))
        for name, kind, labels, said in collectors()
    ]
    return table(("metric", "type", "labels", "what"), *rows)


def commands() -> str:
    """Return a section for each command: what it does, an example, its arguments and options."""
    return "\n".join(
        _command(name, each) for name, each in _leaves(typer.main.get_command(cli.app))
    )


def _leaves(command: Any, name: str = "stream-app") -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield name, command
        return
    for word, each in command.commands.items():
        yield from _leaves(each, f"{name} {word}")


def _command(name: str, command: Any) -> str:
    said = inspect.cleandoc(command.help or "")
    about, *last = re.split(r"^(?:For example|Example):", said, flags=re.MULTILINE)
    text = [" ".join(part.replace("``", "`").split()) for part in about.split("\n\n")]
    examples = [line.strip() for line in "\n".join(last).splitlines() if line.strip()]
    rows = [_option(parameter) for parameter in command.params if not parameter.hidden]
    parts = [f"## {name}", f"```text\n{_usage(name, command.params)}\n```"]
    parts += filter(None, text)
    if examples:
        parts.append("\n".join(["```console", *examples, "```"]))
    if rows:
        parts.append(table(("argument or option", "value", "default", "meaning"), *rows).rstrip())
    return "\n\n".join(parts) + "\n"


def _usage(name: str, parameters: list[Any]) -> str:
    """Return a command with what it must have."""
    words = [name]
    for parameter in parameters:
        if _is_argument(parameter):
            word = parameter.metavar or parameter.name.upper()
            words.append(word if parameter.required else f"[{word}]")
        elif parameter.required:
            words += [parameter.opts[0], parameter.name.upper()]
    optional = [p for p in parameters if not p.required and not _is_argument(p)]
    return " ".join([*words, *(["[options]"] if optional else [])])


def _is_argument(parameter: Any) -> bool:
    return str(parameter.param_type_name) == "argument"


def _option(parameter: Any) -> tuple[str, str, str, str]:
    """Return a row of a command's table."""
    names = (
        [parameter.metavar or parameter.name.upper()] if _is_argument(parameter) else parameter.opts
    )
    value = parameter.default
    if parameter.required:
        shown = "required"
    elif value is None or value is False:
        shown = ""
    else:
        shown = code(value)
    return code(*names), _values(parameter), shown, sentence(parameter.help)


def _values(parameter: Any) -> str:
    """Return what a parameter takes; nothing for a flag, which takes no value."""
    annotation = parameter.type_descriptor.annotation
    if getattr(parameter, "is_flag", False):
        return ""
    if get_origin(annotation) is Literal:
        return code(*get_args(annotation))
    if annotation in {int, float}:
        limits = {"minimum": parameter.min, "maximum": parameter.max}
        return _range({key: limit for key, limit in limits.items() if limit is not None})
    return {Path: "a path"}.get(annotation, "a text")


PARTS: Mapping[str, Callable[[], str]] = {
    "commands": commands,
    "event-fields": lambda: fields(event.Event),
    "item-fields": lambda: fields(event.Item),
    "metrics": metrics_table,
    "outputs": outputs,
    "reject-reasons": reasons,
    "settings": lambda: settings(Settings),
    "settings-of-stages": lambda: settings(StageSettings),
    "settings-of-topics": topics,
}


def written(text: str) -> str:
    """Return a page with all its places filled in."""
    return PLACE.sub(lambda found: f"{found[1]}\n{PARTS[found[2]]()}\n{found[3]}", text)


def main(arguments: list[str]) -> int:
    """Rewrite the pages, or only say which would change; return the exit code."""
    stale = []
    for page in sorted((ROOT / "docs").rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        new = written(text)
        if new != text:
            stale.append(str(page.relative_to(ROOT)))
            if "--check" not in arguments:
                page.write_text(new, encoding="utf-8")
    if stale and "--check" in arguments:
        sys.stderr.write(f"{', '.join(stale)}: not what the code says; run make reference\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
