"""A folder of images that is no known data set: one subfolder per class, or no subfolders."""

from __future__ import annotations

from headwater.sources._folder import read_folder
from headwater.sources._listing import Files
from headwater.sources.known._found import Asked, Count, Known


def read(files: Files, asked: Asked) -> Known:
    """Read a folder of images: ``id``, ``image`` and, with one subfolder per class, ``label``."""
    table = read_folder(files.root)
    said = []
    if "label" not in table.columns:
        said.append("the images lie in no subfolder, so they have no label")
    return Known(
        "folder",
        table,
        [Count("images", table.height)],
        outcomes=("label",),
        warnings=[*said, "no column keeps patients whole: read them from the names with --columns-from"],
    )
