"""Check where symbolic links lead in folders that somebody else may have made."""

from __future__ import annotations

from pathlib import Path


def leads_out(path: Path, folder: Path) -> bool:
    """Whether a path in a folder leads out of it through a symbolic link.

    A snapshot in the cache of the Hugging Face hub is a folder of links into ``blobs`` beside it. Such links count as
    inside the folder.
    """
    own, target = folder.resolve(), path.resolve()
    places = [own]
    if "snapshots" in own.parts:
        at = len(own.parts) - 1 - own.parts[::-1].index("snapshots")
        places.append(Path(*own.parts[:at], "blobs"))
    return not any(target.is_relative_to(place) for place in places)
