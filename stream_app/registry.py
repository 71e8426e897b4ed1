"""The registry of ranking models: what was published, and which release serves.

A folder, or a place in an object store that fsspec knows (``s3://bucket/models``), shared by those
who publish and by the workers::

    releases/NAME/VERSION/    the files of a model's folder; never changed once written
    served.json               which releases have served, the last one now; and the shadow

``served.json`` is replaced as a whole, so a reader sees the old or the new one. Two people who
promote at the same moment are not kept apart: the later one wins.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import fsspec
import msgspec
from fsspec.implementations.local import LocalFileSystem
from msgspec import Struct

from stream_app.errors import ModelError, StreamAppError
from stream_app.manifest import CARD, MANIFEST, read_folder, read_manifest

RELEASES, SERVED = "releases", "served.json"
FORMAT = 1
HISTORY_MAX = 100  # promotions that are remembered
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class RegistryError(StreamAppError):
    """The registry cannot be read or written, or lacks a release; whoever publishes models acts."""


class Release(Struct, frozen=True):
    """A model by name and version.

    ``manifest`` is the SHA-256 of its manifest, which holds those of the other files.
    """

    name: str
    version: str
    manifest: str

    @property
    def place(self) -> str:
        """Where it lies, seen from the registry."""
        return f"{RELEASES}/{self.name}/{self.version}"


class Promotion(Struct, frozen=True):
    """A release that has served from ``at`` on."""

    release: Release
    at: datetime


class Served(Struct, frozen=True):
    """What has served, the last one now, and what is tried out in its shadow."""

    format: int = FORMAT
    promotions: tuple[Promotion, ...] = ()
    shadow: Release | None = None

    @property
    def now(self) -> Release | None:
        """The release that serves; None before the first promotion."""
        return self.promotions[-1].release if self.promotions else None


class Registry:
    """Releases in one place.

    Parameters
    ----------
    url
        A folder, or a URL of fsspec; for an object store its package must be installed, such as
        s3fs.

    Raises
    ------
    RegistryError
        When the URL is of no kind that fsspec knows here.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            self._files, self._root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise RegistryError(f"registry {url}: {error}") from None

    # --- reading ----------------------------------------------------------------------------------

    def served(self) -> Served:
        """Return what serves; nothing where nothing was promoted yet."""
        path = self._path(SERVED)
        with self._failing("read"):
            if not self._files.exists(path):
                return Served()
            data = self._files.cat_file(path)
        try:
            served = msgspec.json.decode(data, type=Served)
        except msgspec.DecodeError as error:
            raise RegistryError(f"{self.url}/{SERVED} cannot be read: {error}") from None
        if served.format != FORMAT:
            raise RegistryError(
                f"{self.url}/{SERVED} has format {served.format}, and this program reads {FORMAT}: "
                "use the version of the program that wrote it"
            )
        return served

    def releases(self) -> list[Release]:
        """Return all releases, in the order of their names and versions."""
        with self._failing("read"):
            found = self._files.glob(self._path(f"{RELEASES}/*/*/{MANIFEST}"))
            parts = {path: path.split("/") for path in sorted(found)}
            return [
                Release(name, version, _sha256(self._files.cat_file(path)))
                for path, (*_, name, version, _file) in parts.items()
            ]

    def find(self, name: str, version: str) -> Release:
        """Return a release by its name and version."""
        for release in self.releases():
            if (release.name, release.version) == (name, version):
                return release
        raise RegistryError(
            f"{self.url} has no release {name} {version}: publish it first, or see what there is "
            "by `python -m models list`"
        )

    def fetch(self, release: Release, folder: Path) -> None:
        """Copy the files of a release into a folder.

        Raises
        ------
        RegistryError
            When the registry cannot be read.
        ModelError
            When the manifest is not the one that was promoted; the other files are hashed in it.
        """
        folder.mkdir(parents=True, exist_ok=True)
        with self._failing("read"):
            self._copy(release, MANIFEST, folder)
        if _sha256((folder / MANIFEST).read_bytes()) != release.manifest:
            raise ModelError(
                "corrupt",
                f"{self.url}/{release.place}/{MANIFEST} is not the one that was promoted: publish "
                "the model under a new version",
            )
        names = read_manifest(folder).names
        with self._failing("read"):
            for name in names:
                self._copy(release, name, folder)

    def _copy(self, release: Release, name: str, folder: Path) -> None:
        data = self._files.cat_file(self._path(f"{release.place}/{name}"))
        (folder / name).write_bytes(data)

    # --- writing ----------------------------------------------------------------------------------

    def publish(self, folder: Path, pool_min: int) -> Release:
        """Copy a model's folder into the registry, once its files have been checked.

        The model card goes with it, if there is one.

        Raises
        ------
        ModelError
            When the folder does not hold a model that this program can serve.
        RegistryError
            When this version is there already, or its name or version make no file's name.
        """
        manifest = read_folder(folder, pool_min).manifest
        for word in (manifest.name, manifest.version):
            if not _WORD.fullmatch(word):
                raise RegistryError(
                    f"{word!r} makes no folder: letters, digits, '.', '_' and '-' do; export the "
                    "model under another name or version"
                )
        digest = _sha256((folder / MANIFEST).read_bytes())
        release = Release(manifest.name, manifest.version, digest)
        with self._failing("written"):
            if self._files.exists(self._path(f"{release.place}/{MANIFEST}")):
                raise RegistryError(
                    f"{self.url} has {release.name} {release.version} already, and a release "
                    "never changes: export the model again, which gives it a new version"
                )
            # The manifest comes last: a release without one is none.
            card = (CARD,) if (folder / CARD).exists() else ()
            for name in (*card, *manifest.names, MANIFEST):
                self._write(f"{release.place}/{name}", (folder / name).read_bytes())
        return release

    def promote(self, release: Release, at: datetime) -> Served:
        """Let a release serve from now on."""
        served = self.served()
        if served.now == release:
            return served
        promotions = (*served.promotions, Promotion(release, at))[-HISTORY_MAX:]
        return self._save(msgspec.structs.replace(served, promotions=promotions))

    def roll_back(self) -> Served:
        """Let the release serve that served before the present one.

        Raises
        ------
        RegistryError
            When there was none.
        """
        served = self.served()
        if len(served.promotions) < 2:  # noqa: PLR2004 - the present one and the one before
            raise RegistryError(f"{self.url}: nothing served before, so nothing can be rolled back")
        return self._save(msgspec.structs.replace(served, promotions=served.promotions[:-1]))

    def set_shadow(self, release: Release | None) -> Served:
        """Let a release be tried out in the shadow of the one that serves; None ends it."""
        return self._save(msgspec.structs.replace(self.served(), shadow=release))

    # --- files ------------------------------------------------------------------------------------

    def _save(self, served: Served) -> Served:
        with self._failing("written"):
            self._write(SERVED, msgspec.json.format(msgspec.json.encode(served)))
        return served

    def _write(self, place: str, data: bytes) -> None:
        """Write a file so that nobody sees half of it: an object store puts whole objects."""
        path = self._path(place)
        if not isinstance(self._files, LocalFileSystem):
            self._files.pipe_file(path, data)
            return
        beside = Path(f"{path}.{os.getpid()}.new")
        beside.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(data)
        beside.replace(path)

    def _path(self, place: str) -> str:
        return f"{self._root.rstrip('/')}/{place}"

    @contextmanager
    def _failing(self, done: str) -> Iterator[None]:
        """Turn what a file system raises into one sentence."""
        try:
            yield
        except RegistryError:
            raise
        except Exception as error:  # noqa: BLE001 - each file system has its own errors
            raise RegistryError(
                f"registry {self.url} cannot be {done}: {type(error).__name__}: {error}"
            ) from None


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
