"""Turns pip's report of one resolve into constraints: names and versions, no addresses."""

import json
import sys
from pathlib import Path


def main() -> None:
    """Print `name==version` for each package of the report named on the command line."""
    report = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    packages = [entry["metadata"] for entry in report["install"]]
    lines = [
        f"{package['name']}=={package['version']}"
        for package in packages
        if package["name"] != "stream-app"
    ]
    sys.stdout.write("\n".join(sorted(lines, key=str.lower)) + "\n")


if __name__ == "__main__":
    main()
