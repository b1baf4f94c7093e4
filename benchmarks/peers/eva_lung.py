"""The data set of the comparison, as a class for kaiko-eva: eva reads a user's own images through such a class."""

import csv
from collections.abc import Callable
from pathlib import Path

import torch
from eva.vision.data.datasets import vision
from eva.vision.utils import io


class Lung(vision.VisionDataset):
    """The images of a manifest whose column ``split`` has one value.

    Parameters
    ----------
    manifest
        CSV with the columns ``image`` (relative to the manifest), ``label`` and ``split``.
    split
        ``train``, ``val`` or ``test``.
    transforms
        What eva applies to each image.
    """

    def __init__(self, manifest: str, split: str, transforms: Callable | None = None) -> None:
        super().__init__(transforms=transforms)
        self._manifest = Path(manifest)
        self._split = split
        self._rows: list[dict[str, str]] = []
        self._classes: list[str] = []

    def configure(self) -> None:
        """Read the manifest."""
        with self._manifest.open() as file:
            rows = list(csv.DictReader(file))
        self._classes = sorted({row["label"] for row in rows})
        self._rows = [row for row in rows if row["split"] == self._split]

    def filename(self, index: int) -> str:
        """Return the path of an image, from which eva names the file of its embedding."""
        return self._rows[index]["image"]

    def load_data(self, index: int) -> torch.Tensor:
        """Return an image as eva's own data sets do."""
        return io.read_image_as_tensor(str(self._manifest.parent / self.filename(index)))

    def load_target(self, index: int) -> torch.Tensor:
        """Return the number of the class."""
        return torch.tensor(self._classes.index(self._rows[index]["label"]), dtype=torch.long)

    def __len__(self) -> int:
        return len(self._rows)
