"""Checkpoints of training: written after each epoch, and read to continue a stopped run."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headwater._extras import need
from headwater._reading import open_regular, read_json
from headwater.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Standing:
    """The state that the next epoch depends on."""

    now: Mapping[str, Tensor]
    best: dict[str, Tensor]
    best_loss: float
    best_epoch: int
    optimiser: dict[str, Any]
    scaler: dict[str, Any]
    curve: dict[str, list[Any]]


@dataclass(frozen=True)
class Checkpoint:
    """A file with the state of one training.

    Attributes
    ----------
    path
        The file; its folder is created on the first write.
    """

    path: Path

    def write(
        self,
        now: Mapping[str, Tensor],
        best: Mapping[str, Tensor],
        best_loss: float,
        best_epoch: int,
        optimiser: Any,
        scaler: Any,
        curve: Any,
    ) -> None:
        """Replace the file by the current state, atomically."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        values = {
            "now": dict(now),
            "best": dict(best),
            "best_loss": best_loss,
            "best_epoch": best_epoch,
            "optimiser": optimiser.state_dict(),
            "scaler": scaler.state_dict(),
            "curve": vars(curve),
        }
        beside = self.path.with_suffix(".tmp")
        need("torch", "encoders").save(values, beside)
        beside.replace(self.path)

    def read(self) -> Standing | None:
        """Return the saved state; None if training had not begun."""
        values = _read(self.path)
        try:
            return None if values is None else Standing(**values)
        except TypeError as error:
            raise _unreadable(self.path) from error


def _read(path: Path) -> dict[str, Any] | None:
    """Return the contents of a file of tensors; None if it does not exist.

    Raises
    ------
    InputError
        When it cannot be read, or is not such a file.
    """
    if not os.path.lexists(path):
        return None
    try:
        open_regular(path).close()
        values = need("torch", "encoders").load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many exception types for a damaged file
        raise _unreadable(path) from error
    if not isinstance(values, dict):
        raise _unreadable(path)
    return values


def _unreadable(path: Path) -> InputError:
    return InputError(f"{path}: cannot be read, so this fine-tuning cannot be continued. Remove {path.parent}.")


class Progressed:
    """A folder with the progress of a run, to continue it: a checkpoint, and results of finished folds.

    Parameters
    ----------
    folder
        The folder.
    asked
        The configuration of the run, as plain JSON values.

    Raises
    ------
    InputError
        When the folder belongs to another configuration.
    """

    def __init__(self, folder: Path, asked: Mapping[str, Any]) -> None:
        self.folder = folder
        digest = blake2b(json.dumps(asked, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()
        file = folder / "asked.json"
        if os.path.lexists(file):
            try:
                began = read_json(file)
                other, then = began["digest"] != digest, dict(began["asked"])
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise _unreadable(file) from error
            if other and any(path.suffix == ".pt" for path in folder.iterdir()):
                plain = json.loads(json.dumps(dict(asked), default=str))
                changed = [name for name in {**then, **plain} if then.get(name) != plain.get(name)]
                raise InputError(
                    f"{folder} holds an unfinished fine-tuning with other settings ({', '.join(changed)}). Pass the "
                    "same settings to continue it, pass another --out, or remove that folder."
                )
            if not other:
                return
        folder.mkdir(parents=True, exist_ok=True)
        beside = folder / "asked.tmp"
        beside.write_text(json.dumps({"digest": digest, "asked": dict(asked)}, default=str))
        beside.replace(file)

    def checkpoint(self, name: str) -> Checkpoint:
        """Return the checkpoint of one training."""
        return Checkpoint(self.folder / f"{name}.pt")

    def finished(self, name: str) -> dict[str, Any] | None:
        """Return the results of a finished training; None if it is not finished."""
        file = self.folder / f"{name}.done.pt"
        return _read(file)

    def finish(self, name: str, values: Mapping[str, Any]) -> None:
        """Save the results of a training, and remove its checkpoint."""
        beside = self.folder / f"{name}.done.tmp"
        need("torch", "encoders").save(dict(values), beside)
        beside.replace(self.folder / f"{name}.done.pt")
        self.checkpoint(name).path.unlink(missing_ok=True)
