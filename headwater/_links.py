"""Where a symbolic link leads, of a folder that somebody else may have made."""

from __future__ import annotations

from pathlib import Path


def leads_out(path: Path, folder: Path) -> bool:
    """Whether a path in a folder is, or lies behind, a link to somewhere else.

    A snapshot in the cache of the Hugging Face hub is a folder of links to ``blobs`` beside it: these are its own.
    """
    own, target = folder.resolve(), path.resolve()
    places = [own]
    if "snapshots" in own.parts:
        at = len(own.parts) - 1 - own.parts[::-1].index("snapshots")
        places.append(Path(*own.parts[:at], "blobs"))
    return not any(target.is_relative_to(place) for place in places)
