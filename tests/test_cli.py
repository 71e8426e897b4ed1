"""The command line teaches: examples in its help, errors that say what to do, clean pipes."""

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from stream_app import cli
from tests.command import run

NOBODY = "127.0.0.1:1"  # nothing listens on this port
ESCAPE = "\x1b"


def piped(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run the program in a process of its own, its output going into pipes."""
    return subprocess.run(
        [sys.executable, "-m", "stream_app", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def commands(command: Any = None, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the words of each command, and of each group of them."""
    command = command or typer.main.get_command(cli.app)
    yield words
    for name, each in getattr(command, "commands", {}).items():
        yield from commands(each, (*words, name))


COMMANDS = list(commands())


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_has_an_example_of_the_command(words: tuple[str, ...]) -> None:
    """The help of each command and group says what it does and shows a command line of it."""
    result = CliRunner().invoke(cli.app, [*words, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert "For example:" in result.output
    example = result.output.split("For example:")[1]
    assert " ".join(("stream-app", *words)) in example


def test_there_are_commands() -> None:
    """The tests above are of the commands that there are."""
    assert {(), ("worker",), ("topics",), ("topics", "check"), ("user",)} <= set(COMMANDS)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["wtch"], "Did you mean 'watch'?"),
        (["topics", "craete"], "Did you mean 'create'?"),
        (["worker", "--procesess", "2"], "--processes"),
        (["worker", "--processes", "none"], "--processes"),
        (["watch", "recommendation"], "there are: catalog.items, churn-alerts"),
    ],
)
def test_a_slip_is_named_with_what_is_right(words: list[str], said: str) -> None:
    """A misspelt command, option or topic gets what was probably meant, and the exit code 2."""
    result = run(*words)
    assert result.returncode == 2
    assert said in result.stderr
    assert not result.stdout


@pytest.mark.parametrize(
    "line",
    [
        "topics create",
        "topics check --json",
        "watch recommendations",
        "user 14 --json",
        "produce --source synthetic --limit 1",
        "produce --from-topic theirs --mapping rees46",
    ],
)
def test_a_missing_broker_is_one_sentence(line: str) -> None:
    """Without a broker a command says who is missed and how to name another, and nothing else."""
    done = run(*line.split(), "--brokers", NOBODY)
    assert (done.returncode, done.stdout) == (2, "")
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith("stream-app: no broker answers at 127.0.0.1:1")
    assert sentence.endswith("name another by --brokers or STREAM_APP_BROKERS")


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"STREAM_APP_BOKERS": "kafka:9092"}, "STREAM_APP_BOKERS: there is no such setting"),
        ({"STREAM_APP_STAGES__TOP_K": "99"}, "stages.top_k = '99': input should be less than"),
    ],
)
def test_a_wrong_setting_is_one_sentence(variables: dict[str, str], said: str) -> None:
    """A wrong setting is named with what is allowed before anything starts."""
    result = run("topics", "check", **variables)
    assert result.returncode == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("words", [["--help"], ["produce", "--help"], ["wtch"]], ids=" ".join)
def test_no_colour_goes_into_a_pipe(words: list[str]) -> None:
    """Where output is no terminal it has no escape sequences, whatever TERM says."""
    result = piped(*words, TERM="xterm-256color", COLORTERM="truecolor")
    assert ESCAPE not in result.stdout + result.stderr


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("stream-app wa", "watch"),
        ("stream-app watch churn", "churn-alerts"),
        ("stream-app produce --mapping re", "rees46"),
    ],
)
def test_the_shell_completes(typed: str, offered: str) -> None:
    """Bash gets commands, topics and mappings offered, by what --install-completion installs."""
    words = typed.split(" ")
    result = piped(
        COMP_WORDS=typed, COMP_CWORD=str(len(words) - 1), _STREAM_APP_COMPLETE="complete_bash"
    )
    assert offered in result.stdout.split()
