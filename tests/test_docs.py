"""The docs say what the code does: names, defaults, budgets, commands, links, tests that exist."""

import importlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
import typer.main
from prometheus_client.metrics import MetricWrapperBase

from stream_app import cli, metrics, state
from stream_app.event import EVENT_TYPES
from stream_app.runtime import sink

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
)
README_LINES_MAX = 200
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
TEST = re.compile(r"(tests/[\w/]+\.py)(?:::(\w+))?")


@cache
def read(path: Path) -> str:
    """Return the text of a file."""
    return path.read_text(encoding="utf-8")


def doc(name: str) -> str:
    """Return the text of a page in docs/."""
    return read(ROOT / "docs" / name)


def place(path: Path) -> str:
    """Return how a page is named in a complaint."""
    return str(path.relative_to(ROOT))


def rows(text: str) -> dict[str, list[str]]:
    """Return the rows of all tables by the names, in backticks, that stand in their first cell."""
    found = {}
    for line in text.splitlines():
        if line.startswith("| `"):
            cells = [cell.strip() for cell in line.split("|")[1:-1]]
            for name in re.findall(r"`([^`]+)`", cells[0]):
                found[name] = cells[1:]
    return found


def section(text: str, title: str) -> str:
    """Return what stands under a heading, up to the next of its own level."""
    marks = re.search(rf"^(#+) {re.escape(title)}$", text, re.MULTILINE)
    assert marks, f"there is no heading {title!r}"
    end = re.search(rf"^#{{1,{len(marks[1])}}} ", text[marks.end() :], re.MULTILINE)
    return text[marks.end() :][: end.start() if end else None]


def test_pages_say_what_the_code_says() -> None:
    """What pages take from the code (settings, metrics, commands, ...) is what it is now."""
    result = subprocess.run(
        [sys.executable, "deploy/reference.py", "--check"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr


def test_code_says_what_everything_is() -> None:
    """No setting, metric, option or reason stands in the docs without a word on what it is."""
    for name in ("reference.md", "commands.md"):
        for place in re.findall(r"<!-- generated: .*?<!-- end -->", doc(name), re.DOTALL):
            for line in place.splitlines():
                assert not re.match(r"\| `.*\| \|$", line), f"{name}: nothing on {line}"


def collectors() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Yield name, type and labels of each metric."""
    for collector in vars(metrics).values():
        if isinstance(collector, MetricWrapperBase):
            (metric,) = collector.describe()
            suffix = "_total" if metric.type == "counter" else ""
            yield metric.name + suffix, metric.type, tuple(collector._labelnames)


def test_metrics_that_pages_name_exist() -> None:
    """Every metric that any page speaks of is one that a worker has."""
    known = {name for name, _, _ in collectors()}
    for path in PAGES:
        named = re.findall(r"\b(stream_app_\w+?)(?:_bucket|_sum|_count)?\b", read(path))
        assert set(named) <= known, place(path)


def test_types_of_events_are_described() -> None:
    """Each type of event has its place in a table."""
    text = section(doc("reference.md"), "Events")
    for name in EVENT_TYPES:
        assert name in rows(text), f"docs/reference.md lacks {name}"


@pytest.mark.parametrize(
    ("kind", "layout"),
    [
        ("user", state.USER_LAYOUT),
        ("item", state.ITEM_LAYOUT),
        ("context", state.CONTEXT_LAYOUT),
        ("partition", state.PARTITION_LAYOUT),
    ],
)
def test_budgets_are_those_of_the_state(kind: str, layout: Any) -> None:
    """The bytes that the docs give for rows and sections are those of the layouts."""
    sections, total = _budget(kind)
    assert sections == ", ".join(f"{spec.name} {spec.bytes_max:,}" for spec in layout)
    frame = 6 + 2 * len(layout)
    assert total == f"{sum(spec.bytes_max for spec in layout) + frame:,}"


def test_budget_of_a_learner_is_that_of_the_state() -> None:
    """A row of a learner has one of the sections, at most as large as the docs say."""
    sections, total = _budget("learner")
    names = " or ".join(spec.name for spec in state.LEARNER_LAYOUT)
    assert sections == f"{names} {state.LEARNER_BYTES_MAX:,}"
    assert total == f"{state.LEARNER_BYTES_MAX + 6 + 2 * len(state.LEARNER_LAYOUT):,}"


def _budget(kind: str) -> tuple[str, str]:
    """Return the sections and the total that the table gives for a kind of row."""
    line = _line(doc("architecture.md"), f"| {kind} |").strip("| ")
    _, _, sections, total = re.split(r"\s*\|\s*", line)
    return sections, total


def _line(text: str, start: str) -> str:
    (line,) = [line for line in text.splitlines() if line.startswith(start)]
    return line


def test_recipes_of_a_commit_are_those_of_the_sink() -> None:
    """The numbered steps of a commit are, word for word, those of `runtime/sink.py`."""
    steps = re.findall(r"^\d\. .+$", sink.__doc__ or "", re.MULTILINE)
    text = section(doc("architecture.md"), "The life of a batch")
    assert steps == re.findall(r"^\d\. .+$", text, re.MULTILINE)


def anchors(text: str) -> set[str]:
    """Return the names by which GitHub lets links point at headings."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", PAGES, ids=place)
def test_links_resolve(path: Path) -> None:
    """Every relative link leads to a file, and to a heading in it if it names one."""
    for link in LINK.findall(read(path)):
        if link.startswith(("https://", "mailto:")):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), f"{place(path)}: {link} leads nowhere"
        if anchor:
            assert anchor in anchors(read(target)), f"{place(path)}: {link} names no heading"


@pytest.mark.parametrize("path", PAGES, ids=place)
def test_tests_that_pages_name_exist(path: Path) -> None:
    """Every test that a page names as evidence is there."""
    for file, name in TEST.findall(read(path)):
        assert (ROOT / file).exists(), f"{place(path)}: there is no {file}"
        if name:
            assert f"def {name}(" in read(ROOT / file), f"{place(path)}: no {name} in {file}"


def commands(text: str, program: str) -> Iterator[list[str]]:
    """Yield the words behind a program's name, of one word or more, in blocks and in backticks."""
    for block in re.findall(r"^ *```sh\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if program in line:
                yield from _called(line, program)
    for quoted in re.findall(rf"`({program} [^`<]+)`", text):
        yield from _called(quoted, program)


def _called(line: str, program: str) -> Iterator[list[str]]:
    """Yield the words behind a program's name in a line, up to a pipe or whatever ends it."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    name = program.split()
    command: list[str] = []
    for word in [*lexer, ";"]:
        if not re.fullmatch(r"[|&;()<>]+", word):
            command.append(word)
            continue
        while command and re.fullmatch(r"[A-Z_]+=.*", command[0]):
            del command[0]
        if command[: len(name)] == name:
            yield command[len(name) :]
        command = []


def parse(words: list[str], app: typer.Typer = cli.app) -> None:
    """Parse a command line without running it; a wrong word in it raises."""
    command: Any = typer.main.get_command(app)
    parent: Any = None
    while words and hasattr(command, "resolve_command"):
        parent = command.make_context("stream-app", list(words), parent=parent)
        left = [*parent._protected_args, *parent.args]
        _, command, words = command.resolve_command(parent, left)
        if not words:
            return  # a page may name a command without what it needs
    command.make_context("stream-app", list(words), parent=parent)


@pytest.mark.parametrize("path", PAGES, ids=place)
def test_commands_that_pages_show_exist(path: Path) -> None:
    """Every `stream-app` command that a page shows has the arguments and options that it shows."""
    for words in commands(read(path), "stream-app"):
        if "--install-completion" not in words:  # parsed, it would do so
            parse(words)


def test_commands_of_the_models_that_pages_show_exist() -> None:
    """Every `python -m models` command that a page shows is one that it takes."""
    app = importlib.import_module("models.__main__").commands()
    shown = [words for path in PAGES for words in commands(read(path), "python -m models")]
    assert len(shown) > 10
    for words in shown:  # one page names an option without the folder that it takes
        parse([*words, "DIR"] if words[-1] == "--report" else words, app)


@pytest.mark.parametrize(
    "words", ["fly", "topics burn", "worker --wings 2", "produce --source sky"]
)
def test_commands_that_do_not_exist_are_found(words: str) -> None:
    """A command, option or value that there is not is no command line."""
    with pytest.raises(Exception, match=r"(?i)no such|is not one of"):
        parse(words.split())


@pytest.mark.parametrize("path", PAGES, ids=place)
def test_targets_that_pages_show_exist(path: Path) -> None:
    """Every `make` target that a page shows is in the Makefile."""
    targets = set(re.findall(r"^([a-z-]+):", read(ROOT / "Makefile"), re.MULTILINE))
    for words in commands(read(path), "make"):
        assert {word for word in words if "=" not in word} <= targets, f"{place(path)}: {words}"


def test_readme_is_short_and_begins_with_two_commands() -> None:
    """A newcomer finds the two commands after one paragraph, and reads to the end."""
    lines = read(ROOT / "README.md").splitlines()
    assert len(lines) <= README_LINES_MAX
    assert re.search(r"^# .+\n\n[^#]+?\n\n```sh\nmake demo .*\nmake test ", "\n".join(lines))


def test_pages_name_no_place_on_a_machine() -> None:
    """No page names a folder or an address of the machine that it was written on."""
    for path in PAGES:
        assert not re.search(r"/(work|root|tmp|home)/", read(path)), place(path)


def test_site_is_complete_and_asks_nobody_else(tmp_path: Path) -> None:
    """The site is built without a warning, and its pages load nothing from other addresses."""
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    pages = sorted(tmp_path.rglob("*.html"))
    assert len(pages) >= len(PAGES)
    for page in pages:
        loaded = re.findall(
            r"<(?:script|link|img|iframe)[^>]+(?:src|href)=\"?([^\"\s>]+)", read(page)
        )
        assert loaded
        assert not [each for each in loaded if re.match(r"(https?:)?//", each)], page.name
        assert 'class="mermaid"' not in read(page), "mermaid's script comes from elsewhere"
