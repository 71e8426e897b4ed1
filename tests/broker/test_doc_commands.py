"""The commands of the docs, run as a reader runs them, page by page, on a real Kafka.

How pages are read is in `pages.py`, what stands in for `make` and others in `stand_ins.sh`.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka.admin import KafkaAdminClient

from stream_app.ops.demo_child import free_port
from tests.broker.kafka import KafkaServer
from tests.broker.pages import ROOT, Block, PageError, blocks, missing, name, pages, script

# On two idle cores none takes 40.
PAGE_SECONDS_MAX = 280.0
SKIPS_MAX = 3
# Entries of the checkout that a page's folder lacks: what pages make themselves, and what is big.
NOT_LINKED = {".git", ".venv", "build"}


def read(page: Path) -> list[Block]:
    """Return the blocks of a page."""
    return list(blocks(page.read_text(encoding="utf-8")))


WITH_COMMANDS = [
    page for page in pages() if any(block.kind in {"run", "ends"} for block in read(page))
]


@pytest.fixture
def broker(kafka: KafkaServer) -> Iterator[str]:
    """Give the broker's address; what topics a page makes are gone after it."""
    with KafkaAdminClient(bootstrap_servers=kafka.bootstrap) as admin:
        before = set(admin.list_topics())
        yield kafka.bootstrap
        made = [topic for topic in set(admin.list_topics()) - before if topic[:2] != "__"]
        if made:
            admin.delete_topics(made)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a folder that looks like the checkout, for pages to write files into."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for entry in ROOT.iterdir():
        if entry.name not in NOT_LINKED:
            (folder / entry.name).symlink_to(entry)
    return folder


def moved(block: Block, broker: str, port: int) -> Block:
    """Return a block with the broker and the ports of this test in place of the usual ones."""
    text = re.sub(r"\b(localhost|127\.0\.0\.1):909[24]\b", broker, block.text)
    text = re.sub(r"\b80([01]\d)\b", lambda found: str(port + int(found[1])), text)
    return Block(block.kind, text, block.about)


def environment(broker: str, port: int) -> dict[str, str]:
    """Return the environment of a reader: the program on the path, a Kafka to talk to."""
    venv = Path(sys.prefix)
    return {
        **{key: value for key, value in os.environ.items() if not key.startswith("STREAM_APP_")},
        "CHECKOUT": str(ROOT),
        "COLUMNS": "100",
        "PATH": f"{venv / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHON_OF_TEST": sys.executable,
        "STREAM_APP_BROKERS": broker,
        "STREAM_APP_METRICS_PORT": str(port),
        "VENV": str(venv),
    }


def follow(page: list[Block], folder: Path, outputs: Path, env: dict[str, str]) -> int:
    """Run a page in a folder; return the exit code."""
    bash = shutil.which("bash")
    assert bash
    file = folder.parent / "page.sh"
    file.write_text(script(page, outputs))
    # In a group of its own, so that all that it has started can be ended with it.
    with subprocess.Popen(
        [bash, file], cwd=folder, env=env, stdin=subprocess.DEVNULL, process_group=0
    ) as process:
        try:
            return process.wait(PAGE_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGTERM)
            raise


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=name)
def test_commands_of_a_page_work(page: Path, broker: str, checkout: Path, tmp_path: Path) -> None:
    """Whoever follows a page from top to bottom sees no command fail, and what it says they see."""
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    port = free_port()
    parts = [moved(block, broker, port) for block in read(page)]
    code = follow(parts, checkout, outputs, environment(broker, port))
    printed = {int(each.name): each.read_text(errors="replace") for each in outputs.iterdir()}
    last = max(printed)
    assert code == 0, f"{name(page)}: exit code {code} in\n{parts[last].text}\n{printed[last]}"
    ran = -1
    for number, block in enumerate(parts):
        if block.kind in {"run", "ends", "background"}:
            ran = number
        elif block.kind == "shows":
            lost = missing(block.text, printed[ran])
            assert not lost, f"{name(page)}: {lost} are not in\n{printed[ran]}"


def test_few_commands_are_skipped() -> None:
    """Hardly any block is not run, and each of these says why."""
    skipped = [
        (name(page), block.about)
        for page in pages()
        for block in read(page)
        if block.kind == "skip"
    ]
    assert len(skipped) <= SKIPS_MAX, skipped


@pytest.mark.parametrize(
    "text",
    [
        "<!-- test: skip -->\n```sh\nls\n```\n",
        "<!-- test: skip because -->\n```sh\nls\n```\n",
        "<!-- test: sometimes -->\n```sh\nls\n```\n",
        "<!-- test: background -->\n```text\nls\n```\n",
        "<!-- test: shows -->\n```sh\nls\n```\n",
        "<!-- test: background -->\n",
    ],
)
def test_comments_that_are_not_understood_are_refused(text: str) -> None:
    """A comment with a mistake in it does not leave a command out in silence."""
    with pytest.raises(PageError):
        list(blocks(text))


def test_blocks_of_a_page() -> None:
    """Each comment has its meaning, blocks in lists are found, and what is not shell is not run."""
    text = """# Page
<!-- test: given zero
zero -->
```sh
one
```
```json
{}
```
<!-- file: a.toml -->
```toml
b = 1
```
<!-- test: background -->
```sh
two
```
1. first

   ```sh
   three
     four
   ```
<!-- test: shows -->
```text
five
```
<!-- test: ends with 1 -->
```sh
false
```
<!-- test: stop the worker -->
<!-- test: skip because it asks for a password -->
```sh
six
```
"""
    assert list(blocks(text)) == [
        Block("given", "zero\nzero\n"),
        Block("run", "one\n"),
        Block("file", "b = 1\n", "a.toml"),
        Block("background", "two\n"),
        Block("run", "three\n  four\n"),
        Block("shows", "five\n"),
        Block("ends", "false\n", "1"),
        Block("stop", ""),
        Block("skip", "six\n", "it asks for a password"),
    ]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("true\n", 0),
        ("true\nfalse\n", 1),
        ("nobody-knows-this\n", 127),
        ("make no-such-target\n", 2),
        ("pip install '.[no-such-extra]'\n", 1),
        ("false | true\n", 1),
    ],
)
def test_commands_that_fail_are_found(text: str, code: int, checkout: Path, tmp_path: Path) -> None:
    """A page with a command that does not work does not pass."""
    env = environment("localhost:9092", 8000)
    assert follow([Block("run", text)], checkout, tmp_path, env) == code
    for said in (code, code + 1):
        ended = follow([Block("ends", text, str(said))], checkout, tmp_path, env)
        assert ended == int(said != code)


def test_background_command_that_fails_is_found(checkout: Path, tmp_path: Path) -> None:
    """What runs until the page's end may be stopped there, but not fail before."""
    for text, code in (("sleep 60\n", 0), ("exit 3\n", 3)):
        page = [Block("background", text), Block("run", "sleep 0.3\n")]
        assert follow(page, checkout, tmp_path, environment("localhost:9092", 8000)) == code, text
