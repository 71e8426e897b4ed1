"""Pages of the docs as scripts: their blocks of shell, top to bottom, in one bash for each page.

Comments in a page, invisible to its readers, say what the text around them says to people:

``<!-- test: background -->``
    the block below runs until the page's end
``<!-- test: ends with CODE -->``
    the last command of the block below ends with this exit code, as the page says
``<!-- test: skip because REASON -->``
    the block below is not run
``<!-- test: shows -->``
    each line of the block below stands in what the last block of shell printed; ``...`` in a line
    is anything, on a line of its own it says nothing
``<!-- test: given COMMANDS -->``
    what the reader of the page has already: the commands are run
``<!-- test: stop the worker -->``
    here the reader presses Ctrl-C in the worker's terminal
``<!-- file: NAME -->``
    the block below is a file that the reader writes
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

ROOT = Path(__file__).resolve().parents[2]
STAND_INS = Path(__file__).with_name("stand_ins.sh")
# Pages that report what was measured or decided are no instructions.
LEFT_OUT = ("docs/results/", "docs/decisions/")

_PART = re.compile(
    r"^<!-- (?P<mark>(?:test|file): .*?) -->$"
    r"|^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
_ENDS = re.compile(r"test: ends with (\d+)")
_SKIP = re.compile(r"test: skip because (\w.+)", re.DOTALL)

Kind = Literal["given", "run", "ends", "background", "skip", "shows", "stop", "file"]


class Block(msgspec.Struct, frozen=True):
    """A part of a page that the test acts on.

    ``text`` is what stands in the block; ``about`` is the reason to skip it, the exit code that it
    ends with, or the file's name.
    """

    kind: Kind
    text: str
    about: str = ""


class PageError(ValueError):
    """A comment of a page is not one of those above, or stands above the wrong block."""


def pages() -> list[Path]:
    """Return all pages whose commands are run."""
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [page for page in found if not name(page).startswith(LEFT_OUT)]


def name(page: Path) -> str:
    """Return a page's path from the checkout's folder."""
    return page.relative_to(ROOT).as_posix()


def blocks(text: str) -> Iterator[Block]:
    """Yield what a page tells its reader to do.

    Raises
    ------
    PageError
        When a comment does not fit what follows it.
    """
    mark = ""
    for part in _PART.finditer(text):
        if part["mark"]:
            if mark:
                raise PageError(f"{mark!r} has no block below it")
            mark = part["mark"]
            if mark == "test: stop the worker":
                yield Block("stop", "")
                mark = ""
            elif mark.startswith("test: given "):
                yield Block("given", mark.removeprefix("test: given ") + "\n")
                mark = ""
            continue
        block = _block(mark, part["language"], _dedented(part["text"], len(part["indent"])))
        mark = ""
        if block:
            yield block
    if mark:
        raise PageError(f"{mark!r} has no block below it")


def _dedented(text: str, by: int) -> str:
    return "".join(line[min(by, len(line) - 1) :] for line in text.splitlines(keepends=True))


def _block(mark: str, language: str, text: str) -> Block | None:
    """Return what a block and the comment above it mean; nothing for one that is only shown."""
    skip, ends = _SKIP.fullmatch(mark), _ENDS.fullmatch(mark)
    if mark.startswith("file: "):
        return Block("file", text, mark.removeprefix("file: "))
    if mark == "test: shows":
        if language == "sh":
            raise PageError("a block of shell shows nothing: mark the text below it")
        return Block("shows", text)
    if language != "sh":
        if mark:
            raise PageError(f"{mark!r} stands above a block of {language or 'text'}, not of sh")
        return None
    if skip:
        return Block("skip", text, skip[1])
    if ends:
        return Block("ends", text, ends[1])
    if mark not in {"", "test: background"}:
        raise PageError(f"{mark!r} is no comment that tests/broker/pages.py knows")
    return Block("background" if mark else "run", text)


def script(page: list[Block], outputs: Path) -> str:
    """Return the bash script of a page: block ``n`` prints to ``outputs/n``."""
    lines = ["set -eo pipefail", f". {shlex.quote(str(STAND_INS))}"]
    for number, block in enumerate(page):
        if block.kind not in {"shows", "skip"}:
            lines.append(f"exec > {shlex.quote(str(outputs / str(number)))} 2>&1")
        if block.kind in {"given", "run"}:
            lines.append(block.text)
        elif block.kind == "ends":
            lines.append(f"code=0; {{\n{block.text}}} || code=$?; [[ $code == {block.about} ]]")
        elif block.kind == "background":
            lines.append(
                f"in_background() {{\n{block.text}\n}}\nkeep_running in_background\nsleep 2"
            )
        elif block.kind == "file":
            lines.append(f"printf '%s' {shlex.quote(block.text)} > {shlex.quote(block.about)}")
        elif block.kind == "stop":
            lines.append("stop_all")
    return "\n".join([*lines, "stop_all"]) + "\n"


def missing(shown: str, printed: str) -> list[str]:
    r"""Return the lines of a block that what was printed does not have.

    >>> missing("a ... c\n...\nd", "a  b\tc")
    ['d']
    """
    text = _plain(printed)
    lost = []
    for line in filter(None, map(_plain, shown.splitlines())):
        pattern = ".*".join(re.escape(part.strip()) for part in line.split("..."))
        if not any(re.search(pattern, each) for each in text.splitlines()):
            lost.append(line)
    return lost


def _plain(text: str) -> str:
    """Return a text with one space for each run of them, without frames around tables."""
    bare = re.sub(r"[│┃╭╮╰╯─━┏┓┗┛┡┩└┘├┤┬┴┼╇]+", " ", text)
    return "\n".join(" ".join(line.split()) for line in bare.splitlines())
