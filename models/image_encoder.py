"""Pictures as vectors, by any encoder that somebody gives as ONNX.

The graph takes pictures, float32 (1, 3, height, width) or (1, height, width, 3), and gives one
vector for each, float32 (1, width of the vector); the first axis may be free. Pixels are 0 to 1; if
the graph's metadata has ``mean`` and ``std``, three numbers with commas between, they are
subtracted and divided by. A picture is resized to what the graph takes.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track

from models.text_encoder import EncoderError, Vectors, running

SUFFIXES = (".npy", ".jpg", ".jpeg", ".png", ".webp")
COLOURS = 3
_WHITE = 255.0
_LEAST = 1e-12  # what a vector's length is divided by at least


class Images:
    """An encoder of pictures.

    Parameters
    ----------
    path
        Of the ONNX file.

    Attributes
    ----------
    width
        Numbers of a vector.
    size
        Height and width of the pictures that it takes.

    Raises
    ------
    EncoderError
        When there is no such graph, or it takes or gives something else.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise EncoderError(f"there is no file {path}: give an encoder of pictures as ONNX")
        self._session = running(path)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        given = [(each.type, list(each.shape)) for each in (*inputs, *outputs)]
        picture, vector = (given[0][1], given[-1][1]) if given else ([], [])
        self._first = picture[1:2] == [COLOURS]  # colours stand before height and width
        size = picture[2:] if self._first else picture[1:-1]
        good = (
            [kind for kind, _ in given] == ["tensor(float)"] * 2
            and (self._first or picture[-1:] == [COLOURS])
            and [len(picture), len(vector)] == [4, 2]
            and not any(isinstance(each[0], int) and each[0] != 1 for each in (picture, vector))
            and all(isinstance(each, int) for each in (*size, vector[1]))
        )
        if not good:
            raise EncoderError(
                f"{path} takes and gives {given}, and wanted is float32 (1, 3, height, width) or "
                "(1, height, width, 3) -> (1, numbers): export it so, with fixed sizes"
            )
        self.size: tuple[int, int] = (size[0], size[1])
        self.width: int = vector[1]
        notes = self._session.get_modelmeta().custom_metadata_map
        self._mean = _colours(path, notes.get("mean", "0,0,0"))
        self._std = _colours(path, notes.get("std", "1,1,1"))

    def vectors(self, paths: Sequence[Path | None]) -> Vectors:
        """Return the vectors of pictures, of length 1; (n, D), zeros where there is none."""
        found = np.zeros((len(paths), self.width), np.float32)
        name = self._session.get_inputs()[0].name
        console = Console(stderr=True)
        for place, path in enumerate(
            track(paths, "pictures", console=console, disable=not console.is_terminal)
        ):
            if path is not None:
                pixels = (read(path, self.size) - self._mean) / self._std  # (H, W, 3)
                given = pixels.transpose(2, 0, 1) if self._first else pixels
                (vector,) = self._session.run(None, {name: given[np.newaxis]})[0]
                found[place] = vector / max(float(np.linalg.norm(vector)), _LEAST)
        if not np.isfinite(found).all():
            wrong = paths[int(np.flatnonzero(~np.isfinite(found).all(axis=1))[0])]
            raise EncoderError(f"the encoder of pictures gives no numbers for {wrong}: replace it")
        return found


def read(path: Path, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Return the pixels of a picture, 0 to 1, resized; (height, width, 3).

    A file ``.npy`` holds such an array, or one of bytes.

    Raises
    ------
    EncoderError
        When it cannot be read, or Pillow is wanted for it and not there.
    """
    try:
        if path.suffix == ".npy":
            pixels: npt.NDArray[Any] = np.load(path, allow_pickle=False)
            if pixels.ndim != COLOURS or pixels.shape[2] != COLOURS:
                raise ValueError(f"it is an array {pixels.shape}, not (height, width, 3)")  # noqa: TRY301
            if pixels.dtype != np.uint8:
                pixels = np.rint(np.clip(pixels, 0.0, 1.0) * _WHITE).astype(np.uint8)
            if pixels.shape[:2] == size:
                return (pixels / _WHITE).astype(np.float32)
            picture = _pillow().fromarray(pixels)
        else:
            picture = _pillow().open(path).convert("RGB")
        resized = picture.resize((size[1], size[0]))
    except (OSError, ValueError) as error:
        raise EncoderError(f"{path} is no picture: {error}; replace it or take it away") from None
    return (np.asarray(resized) / _WHITE).astype(np.float32)


def of_items(folder: Path, item_ids: Sequence[str]) -> list[Path | None]:
    """Return the picture of each item: the file of a folder that has its id as its name."""
    files = {
        path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES
    }
    return [files.get(item_id) for item_id in item_ids]


def _colours(path: Path, text: str) -> npt.NDArray[np.float32]:
    try:
        found = np.array([float(each) for each in text.split(",")], np.float32)
    except ValueError:
        found = np.zeros(0, np.float32)
    if len(found) != COLOURS:
        raise EncoderError(
            f"the metadata of {path} has {text!r} for the three colours: write three numbers with "
            "commas between"
        )
    return found


def _pillow() -> Any:
    try:
        return importlib.import_module("PIL.Image")
    except ImportError:
        raise EncoderError(
            "pictures need Pillow: pip install -e '.[models,multimodal]' in the checkout"
        ) from None
