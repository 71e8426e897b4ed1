"""A hook of mkdocs: the navigation, pages beside docs/, links that would lead out of the site.

On GitHub README.md and the others stand beside docs/, and pages link to files of the checkout. The
site holds docs/ only; so the pages are taken in, and a link to any other file becomes plain text.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

# By their path from the checkout's folder: what they are called in the site.
TAKEN_IN = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Spell out `folder/*` in the navigation: its pages, README.md first."""
    config.nav = _spelt(config.nav, Path(config.docs_dir))
    return config


def _spelt(entry: Any, docs: Path) -> Any:
    if isinstance(entry, list):
        return [_spelt(each, docs) for each in entry]
    if isinstance(entry, dict):
        return {title: _spelt(each, docs) for title, each in entry.items()}
    if not str(entry).endswith("/*"):
        return entry
    pages = (docs / entry).parent.glob("*.md")
    first = sorted(pages, key=lambda page: (page.name != "README.md", page.name))
    return [page.relative_to(docs).as_posix() for page in first]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Take in the pages that stand beside docs/."""
    root = Path(config.docs_dir).parent
    for source, name in TAKEN_IN.items():
        text = (root / source).read_text(encoding="utf-8")
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, files: Files, **_: object) -> str:
    """Bend links to where things are in the site, or make plain text of them."""
    names = {name: source for source, name in TAKEN_IN.items()}
    here = page.file.src_uri
    # Where the page is in the checkout.
    folder = posixpath.dirname(names.get(here, f"docs/{here}"))

    def bent(found: re.Match[str]) -> str:
        picture, text, target, anchor = found.groups()
        if re.match(r"\w+:", target):
            return found[0]
        path = posixpath.normpath(posixpath.join(folder, target))
        name = TAKEN_IN.get(path, path.removeprefix("docs/"))
        if name == path:  # it is not under docs/
            return text
        if files.get_file_from_path(name) is None:
            if files.get_file_from_path(f"{name}/README.md") is None:
                return found[0]  # mkdocs complains of it
            name = f"{name}/README.md"
        relative = posixpath.relpath(name, posixpath.dirname(here) or ".")
        return f"{picture}[{text}]({relative}{anchor or ''})"

    return LINK.sub(bent, markdown)
