"""Style that no linter checks: sizes, banned calls, orphans, docstrings of tests, the map."""

import ast
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "stream_app"

# Lines. 90 % of the modules that we learn from are shorter, and 98 % of the functions.
MODULE_LINES_MAX = 400
FUNCTION_LINES_MAX = 70

# Calls that are banned: where they are allowed all the same, and what to use instead.
BANNED_CALLS = {
    "datetime.date.today": (("clock.py",), "the clock that is passed in"),
    "datetime.datetime.now": (("clock.py",), "the clock that is passed in"),
    "datetime.datetime.today": (("clock.py",), "the clock that is passed in"),
    "datetime.datetime.utcnow": (("clock.py",), "the clock that is passed in"),
    "time.time": (("clock.py",), "the clock that is passed in"),
    "time.time_ns": (("clock.py",), "the clock that is passed in"),
    "print": ((), "a rich Console in ops/ or cli, a logger elsewhere"),
    "rich.console.Console": (("ops/", "cli/"), "a logger"),
    "rich.get_console": (("ops/", "cli/"), "a logger"),
    "rich.print": (("ops/", "cli/"), "a logger"),
}
BANNED_MODULES = {
    "cloudpickle": "the rows of state.py and codec.py",
    "dill": "the rows of state.py and codec.py",
    "pickle": "the rows of state.py and codec.py",
}


@cache
def parse(path: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def modules() -> list[Path]:
    """Return all files of the package."""
    return sorted(PACKAGE.rglob("*.py"))


def dotted_name(path: Path) -> str:
    """Return the name by which a file of the package is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def place(path: Path, node: ast.stmt | ast.expr | None = None) -> str:
    """Return where a complaint is about, in the form that editors open."""
    name = str(path.relative_to(ROOT))
    return f"{name}:{node.lineno}" if node else name


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield each function of a file."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def imports(path: Path) -> Iterator[tuple[ast.stmt, str, str]]:
    """Yield each import of a file: the statement, the name it binds and the full name it means."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                # `import a.b` binds a, `import a.b as c` binds c to a.b.
                yield node, alias.asname or alias.name, alias.name
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield node, alias.asname or alias.name, f"{node.module}.{alias.name}"


def full_name(node: ast.expr, names: dict[str, str]) -> str:
    """Return what `a.b.c` means, given what the file's imports bind; empty for other forms."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        owner = full_name(node.value, names)
        return owner and f"{owner}.{node.attr}"
    return ""


def is_under(path: Path, allowed: tuple[str, ...]) -> bool:
    """Whether a file of the package is one of those named, or in a folder that is."""
    name = path.relative_to(PACKAGE).as_posix()
    return any(name == each or (each.endswith("/") and name.startswith(each)) for each in allowed)


def report(complaints: list[str]) -> str:
    """Return a test's message, one complaint a line."""
    return "\n" + "\n".join(complaints)


def test_modules_are_short() -> None:
    """No module is so long that it cannot be read in one go."""
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in modules()}
    complaints = [
        f"{place(path)}: {length} lines, {MODULE_LINES_MAX} at most: split it by what it does"
        for path, length in lengths.items()
        if length > MODULE_LINES_MAX
    ]
    assert not complaints, report(complaints)


def test_functions_are_short() -> None:
    """No function fills more than a screen or so, its docstring apart."""
    complaints = []
    for path in modules():
        for function in functions(path):
            first = function.body[0]
            docstring = ast.get_docstring(function) is not None
            lines = (function.end_lineno or 0) - function.lineno + 1
            lines -= ((first.end_lineno or 0) - first.lineno + 1) if docstring else 0
            if lines > FUNCTION_LINES_MAX:
                complaints.append(
                    f"{place(path, function)}: {function.name} has {lines} lines, "
                    f"{FUNCTION_LINES_MAX} at most: give its parts names"
                )
    assert not complaints, report(complaints)


def test_banned_calls_are_absent() -> None:
    """Time comes from the clock and text goes to a console or a logger."""
    complaints = []
    for path in modules():
        names = {bound: full for _, bound, full in imports(path)}
        for node in ast.walk(parse(path)):
            if not isinstance(node, ast.Call):
                continue
            name = full_name(node.func, names)
            allowed, instead = BANNED_CALLS.get(name, ((), ""))
            if instead and not is_under(path, allowed):
                complaints.append(f"{place(path, node)}: {name} is banned: use {instead}")
    assert not complaints, report(complaints)


def test_pickle_is_absent() -> None:
    """Nothing is pickled: a pickle runs code, and its bytes differ between versions."""
    complaints = [
        f"{place(path, node)}: {full} is banned: use {BANNED_MODULES[full.split('.')[0]]}"
        for path in modules()
        for node, _, full in imports(path)
        if full.split(".")[0] in BANNED_MODULES
    ]
    assert not complaints, report(complaints)


def test_modules_are_used() -> None:
    """Every module is imported by another one or is an entry point."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = [project["scripts"], *project["entry-points"].values()]
    used = {target.split(":")[0] for group in groups for target in group.values()}
    for path in modules():
        # `from a.b import c` may mean the module a.b or the module a.b.c.
        meant = {full for _, _, full in imports(path)}
        used |= (meant | {name.rpartition(".")[0] for name in meant}) - {dotted_name(path)}
    complaints = [
        f"{place(path)}: nothing imports it: use it or delete it"
        for path in modules()
        if path.name not in {"__init__.py", "__main__.py"} and dotted_name(path) not in used
    ]
    assert not complaints, report(complaints)


def test_tests_say_what_they_require() -> None:
    """Every test function has a docstring: the behaviour it requires, in one sentence."""
    complaints = [
        f"{place(path, function)}: {function.name} has no docstring: say what must hold"
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        for function in functions(path)
        if function.name.startswith("test_") and not ast.get_docstring(function)
    ]
    assert not complaints, report(complaints)


def test_map_names_every_module() -> None:
    """The map in the docstring of `stream_app` names the modules that exist, and no others."""
    drawn = Counter(
        re.findall(r"\w+\.py\b", ast.get_docstring(parse(PACKAGE / "__init__.py")) or "")
    )
    built = Counter(path.name for path in modules() if path.name != "__init__.py")
    missing = [f"stream_app/__init__.py: the map lacks {name}" for name in sorted(built - drawn)]
    stale = [
        f"stream_app/__init__.py: the map shows {name}, and there is none (or one fewer)"
        for name in sorted(drawn - built)
    ]
    assert not missing + stale, report(missing + stale)
