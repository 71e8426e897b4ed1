"""The command line in the process of the tests: a process of its own imports for three seconds."""

import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from unittest import mock

from stream_app import cli


def run(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run `stream-app` as a script would, its output going into pipes; return how it ended."""
    output, errors, code = io.StringIO(), io.StringIO(), 0
    words = ["stream-app", *arguments]
    with (
        mock.patch.object(sys, "argv", words),
        mock.patch.dict(os.environ, environment),
        redirect_stdout(output),
        redirect_stderr(errors),
    ):
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
    return subprocess.CompletedProcess(words, code, output.getvalue(), errors.getvalue())
