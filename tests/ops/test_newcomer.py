"""From a clone to one's own CSV in the three commands of the README, on a broker of its own."""

import json
import os
import random
import shlex
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.test_docs import ROOT, read

ROWS = 3_000
HEADER = (
    "event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session"
)


def rees46(path: Path, rows: int, seed: int = 46) -> None:
    """Write a file in the shape of REES46's open data; one row in it has no user."""
    chance = random.Random(seed)
    now = datetime(2025, 3, 1, tzinfo=UTC)
    lines = [HEADER]
    for number in range(rows):
        now += timedelta(seconds=chance.randint(1, 400))
        kind = chance.choices(("view", "cart", "purchase"), (90, 6, 4))[0]
        item = int(chance.expovariate(1 / 40)) % 300
        user = "" if number == rows // 2 else str(chance.randint(1, 150))
        lines.append(
            f"{now:%Y-%m-%d %H:%M:%S} UTC,{kind},{1000 + item},{item % 9},home.shelf_{item % 9},"
            f"maker_{item % 5},{5 + item % 50}.50,{user},session-{number // 8}"
        )
    path.write_text("\n".join(lines) + "\n", "utf-8")


def three_commands() -> list[str]:
    """Return the commands that the README shows under its heading."""
    text = read(ROOT / "README.md").split("## Your own CSV in three commands")[1]
    commands = text.split("```sh\n")[1].split("```")[0].splitlines()
    return [command.split("  #")[0].strip() for command in commands]


def test_from_clone_to_own_csv(tmp_path: Path) -> None:
    """Three commands stream a file that the program has never seen; every row is accounted for.

    The packages are those of the environment that runs the tests; that they install is what
    `make test` shows before it comes here.
    """
    rees46(tmp_path / "shop.csv", ROWS)
    clone, enter, demo = three_commands()
    assert (clone, enter) == ("git clone ADDRESS stream_app", "cd stream_app")
    clone = clone.replace("ADDRESS", shlex.quote(str(ROOT)))
    assert demo == 'make demo ARGS="--file ../shop.csv"'
    bash = shutil.which("bash")
    assert bash
    venv = Path(sys.prefix)
    given = f'mkdir .venv && ln -s "{venv}"/* .venv/ && touch .venv/.demo'
    script = "\n".join(
        (clone, enter, given, demo.replace('csv"', 'csv --json --report ../report.html"'))
    )
    # A reader's shell is not inside of a `make test`, which hands its flags on.
    outer = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(
        [bash, "-euc", script],
        cwd=tmp_path,
        env={**outer, "PYTHONPATH": str(tmp_path / "stream_app")},
        capture_output=True,
        text=True,
        timeout=270,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.strip().splitlines()[-1])
    assert result["consumed"] == ROWS
    assert result["rejected"] == 1
    assert result["processed"] + result["duplicate"] == ROWS - 1
    assert result["recommendations"] > ROWS / 10
    assert (tmp_path / "report.html").stat().st_size > 10_000
