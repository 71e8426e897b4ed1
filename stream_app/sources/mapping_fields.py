"""Where a field of ours comes from in another shop's row, and how its value becomes one of ours.

A row is a dictionary: of a line of CSV all values are text, of JSON and parquet they are nested. A
path names a place in it: names with dots between them, and behind a name

- ``[]`` for the entry of a list that this event is about: the list is unrolled,
- ``[0]`` for an entry by its place,
- ``[key=page]`` for the first entry whose ``key`` is ``page``.

A column whose whole name is the path comes first, so names with dots in them work.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence

from stream_app.sources.mapping_values import Field, as_number, as_text, digest

Row = Mapping[str, object]
# A row, and the entries of its lists that are unrolled, an entry a level.
Scope = Sequence[object]
Read = Callable[[Scope], object]

_STEP = re.compile(r"([^.\[\]]+)(?:\[(\d+|[^\[\]=]+=[^\[\]]*)\])?")
_IN_BRACES = re.compile(r"\{([^{}]+)\}")


FieldSpec = str | list[str] | Field


def as_field(spec: FieldSpec) -> Field:
    """Return the full form of a field: a path, or a list of them, is short for one."""
    return spec if isinstance(spec, Field) else Field(path=spec)


def fault_of(field: Field) -> str | None:
    """Return what is wrong with a field's description, or None."""
    ways = ("path", "template", "constant", "hash", "parts")
    used = [name for name in ways if getattr(field, name) not in (None, [], "")]
    if field.hash == []:
        used.append("hash")
    if len(used) != 1:
        # A default alone is a constant in other words.
        return f"give exactly one of {', '.join(ways)}"
    if field.decimal not in {".", ","}:
        return "decimal is '.' or ','"
    if not math.isfinite(field.scale) or field.scale <= 0:
        return "scale must be greater than 0"
    if re.search(r"[{}]", _IN_BRACES.sub("", field.template or "")):
        return "a template has paths in braces, each of which is closed: {order_id}-{sku}"
    return None


def paths_of(field: Field) -> list[str]:
    """Return every path that a field reads."""
    paths = [field.path] if isinstance(field.path, str) else list(field.path)
    paths += _IN_BRACES.findall(field.template or "")
    paths += [*(field.hash or ()), *(field.parts or ()), *([field.per] if field.per else ())]
    return paths


class Paths:
    """Compiles paths, given which lists are unrolled and what stands for no value.

    >>> paths = Paths(["items[]"], ["(not set)"])
    >>> scopes = paths.scopes({"user": "u", "items": [{"id": 1}, {"id": "(not set)"}]})
    >>> [(paths.compile("user")(scope), paths.compile("items[].id")(scope)) for scope in scopes]
    [('u', 1), ('u', None)]
    """

    def __init__(self, each: Sequence[str], empty: Sequence[str]) -> None:
        self._each = list(each)
        self._empty = frozenset(("", *empty))
        self._lists = [self._steps(path.removesuffix("[]")) for path in each]

    def scopes(self, row: Row) -> list[Scope]:
        """Return the row with each entry of the lists that are unrolled; itself without any."""
        scopes: list[Scope] = [(row,)]
        for level, (at, steps) in enumerate(self._lists, 1):
            longer: list[Scope] = []
            for scope in scopes:
                entries = _walk(scope[at], steps)
                if isinstance(entries, Sequence) and not isinstance(entries, str) and entries:
                    longer += [(*scope, entry) for entry in entries]
                else:
                    longer.append((*scope, None))
            assert all(len(scope) == level + 1 for scope in longer)
            scopes = longer
        return scopes

    def compile(self, path: str) -> Read:
        """Return what reads the value at a path, None where there is none.

        Raises
        ------
        ValueError
            When it is no path, or speaks of a list that is not unrolled.
        """
        level, steps = self._steps(path)
        empty = self._empty

        def clean(value: object) -> object:
            if type(value) is str:
                value = value.strip()
                return None if value in empty else value
            return None if value is None or value != value else value  # noqa: PLR0124 - NaN

        if level == 0 and len(steps) == 1 and steps[0][1] is None:
            name = steps[0][0]
            return lambda scope: clean(scope[0].get(name))  # type: ignore[attr-defined]
        if level == 0:
            return lambda scope: clean(
                scope[0][path] if path in scope[0] else _walk(scope[0], steps)  # type: ignore[operator,index]
            )
        return lambda scope: clean(_walk(scope[level], steps))

    def _steps(self, path: str) -> tuple[int, list[tuple[str, str | None]]]:
        """Return the level that a path starts at, and its steps from there."""
        level, rest = 0, path
        for number, each in enumerate(self._each, 1):
            if path.startswith(each) and path[len(each) : len(each) + 1] in {".", ""}:
                level, rest = number, path[len(each) :].removeprefix(".")
        if "[]" in rest:
            raise ValueError(
                f"path {path!r}: list what is unrolled in `each`, such as "
                f"each = ['{path[: path.index('[]') + 2]}']"
            )
        steps: list[tuple[str, str | None]] = []
        if ".".join(_parts(rest)) != rest:
            raise ValueError(f"path {path!r}: names with dots between them are needed")
        for part in _parts(rest):
            match = _STEP.fullmatch(part)
            if match is None:
                raise ValueError(f"path {path!r}: {part!r} is no name, name[0] or name[key=text]")
            steps.append((match[1], match[2]))
        return level, steps


def _parts(path: str) -> list[str]:
    """Return a path cut at its dots, those in brackets excepted."""
    return re.findall(r"(?:[^.\[\]]|\[[^\]]*\])+", path) if path else []


def _walk(value: object, steps: Sequence[tuple[str, str | None]]) -> object:
    for name, choice in steps:
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
        if choice is not None:
            value = _choose(value, choice)
    return value


def _choose(entries: object, choice: str) -> object:
    """Return an entry of a list, by its place or by what it says of itself."""
    if not isinstance(entries, Sequence) or isinstance(entries, str):
        return None
    key, equals, wanted = choice.partition("=")
    if not equals:
        place = int(choice)
        return entries[place] if place < len(entries) else None
    for entry in entries:
        if isinstance(entry, Mapping) and str(entry.get(key)) == wanted:
            return entry
    return None


def reader(field: Field, paths: Paths, prefix: str) -> Read:
    """Return what reads a field's raw value, None where there is none.

    ``prefix`` stands before a hash. Paths were checked, so this raises ValueError for bad ones.
    """
    read = _source(field, paths, prefix)
    default = field.default
    if default is None:
        return read

    def with_default(scope: Scope) -> object:
        value = read(scope)
        return default if value is None else value

    return with_default


def _source(field: Field, paths: Paths, prefix: str) -> Read:
    if field.constant is not None:
        return lambda _: field.constant
    if field.template is not None:
        return _template(field.template, paths)
    if field.hash is not None:
        return _hash(field.hash, paths, prefix)
    if field.parts is not None:
        parts = [paths.compile(path) for path in field.parts]
        return lambda scope: [part for part in (read(scope) for read in parts) if part] or None
    return _first([field.path] if isinstance(field.path, str) else field.path, paths)


def _first(names: Sequence[str], paths: Paths) -> Read:
    """Return what reads the first value that there is at any of these paths."""
    alternatives = [paths.compile(name) for name in names]
    if len(alternatives) == 1:
        return alternatives[0]

    def first(scope: Scope) -> object:
        for read in alternatives:
            value = read(scope)
            if value is not None:
                return value
        return None

    return first


def _template(template: str, paths: Paths) -> Read:
    pieces = _IN_BRACES.split(template)  # text, path, text, path, ..., text
    reads = [paths.compile(path) for path in pieces[1::2]]

    def fill(scope: Scope) -> object:
        text = pieces[0]
        for read, after in zip(reads, pieces[2::2], strict=True):
            value = read(scope)
            if value is None:
                return None
            text += as_text(value) + after
        return text

    return fill


def _hash(names: Sequence[str], paths: Paths, prefix: str) -> Read:
    if not names:
        return lambda scope: prefix + digest(scope[0])
    reads = [paths.compile(path) for path in names]
    return lambda scope: prefix + digest([read(scope) for read in reads])


def divided(read: Read, per: Read, field: Field) -> Read:
    """Return what reads a number divided by another; itself where that is missing or 0."""
    plain = Field(path="-", decimal=field.decimal)

    def divide(scope: Scope) -> object:
        value, divisor = read(scope), per(scope)
        if value is None:
            return None
        number = as_number(value, field)
        by = as_number(divisor, plain) if divisor is not None else 0.0
        return number / by if by else number

    return divide
