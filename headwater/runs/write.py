"""Runs on disk: written to a temporary folder, then moved into place."""

from __future__ import annotations

import io
import json
import platform
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from headwater._reading import read_json
from headwater._shown import without_nan
from headwater._tensors import as_safetensors
from headwater._writable import require_writable
from headwater.errors import InputError
from headwater.heads import save_head
from headwater.runs.places import seen_from
from headwater.runs.run import (
    COST,
    CURVES,
    DECISION,
    ENCODER,
    FIGURES,
    FOLDS,
    HEAD_FILES,
    INSTANCES,
    REFERENCE,
    RUN_FILES,
    TRIALS,
    Run,
)
from headwater.store import Store

if TYPE_CHECKING:
    from headwater.embed.adapter import Adapter

COMMANDS = ("fit-head", "zero-shot", "evaluate", "fine-tune", "contrast")  # that write runs
METRICS = "metrics.json"
EVERY_FILE = {*RUN_FILES, DECISION, TRIALS, INSTANCES, CURVES, COST, REFERENCE}


def run_folder(out: str | Path | None) -> Path | None:
    """Return the directory to write a run to; refuse one that holds something else."""
    if out is None:
        return None
    path = require_writable(out)
    if path.is_dir():
        taken = any(path.iterdir()) and not _is_run(path)
    else:
        taken = path.exists()
    if taken:
        raise InputError(f"--out {path} holds something that is not a run. Give another path.")
    return path


def _is_run(path: Path) -> bool:
    """Whether a directory holds a run, or one that was only partly written."""
    try:
        config = read_json(path / "config.json")
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("command") in COMMANDS


def write_run(target: Path | None, run: Run, kind: str, *, head_of: Path | None = None) -> Run:
    """Write a run; see `write_whole`. The head is the run's own, or a copy of that of the run ``head_of``."""
    if target is None:
        return run
    tables = {"predictions.parquet": run.predictions, TRIALS: run.trials, INSTANCES: run.instances, CURVES: run.curves}
    files = {name: parquet(table) for name, table in tables.items() if table is not None}
    if run.cost:
        files[COST] = to_json(run.cost).encode()
    if run.decision:
        files[DECISION] = to_json(run.decision).encode()
    if run.reference is not None:
        files[REFERENCE] = as_safetensors(run.reference.to_arrays())
    metrics = dict(run.metrics)
    if "external" in metrics:
        metrics["external"] = seen_from(target, metrics["external"])

    def write_more(folder: Path) -> None:
        if head_of is None:
            save_head(run.head, kind, folder)
        else:
            for name in HEAD_FILES:
                shutil.copyfile(head_of / name, folder / name)
        write_adapters(folder, run.adapters)
        for fold, head in enumerate(run.fold_heads):
            (folder / FOLDS / str(fold)).mkdir(parents=True)
            save_head(head, kind, folder / FOLDS / str(fold))

    write_whole(target, run.config, metrics, files, write_more)
    return run


def write_adapters(folder: Path, adapters: Sequence[Adapter]) -> None:
    """Write the trained weights of each encoder into a run's folder."""
    for number, adapter in enumerate(adapters):
        (folder / ENCODER / str(number)).mkdir(parents=True)
        adapter.write(folder / ENCODER / str(number))


def write_whole(
    target: Path,
    config: Mapping[str, Any],
    metrics: Mapping[str, Any],
    files: Mapping[str, bytes],
    write_more: Callable[[Path], None],
) -> None:
    """Write the files of a run to a temporary folder, then move them into place one by one, the metrics last.

    Files of an earlier run that this one does not have are removed.

    Parameters
    ----------
    target
        The run directory.
    config, metrics
        For ``config.json`` and ``metrics.json``.
    files
        Other files, by name.
    write_more
        Writes the files that libraries write themselves, such as heads and tensors, into a folder.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with _beside(target) as folder:
        (folder / "config.json").write_text(to_json(seen_from(target, config)))
        for name, content in files.items():
            (folder / name).write_bytes(content)
        write_more(folder)
        (folder / METRICS).write_text(to_json(metrics))
        target.mkdir(exist_ok=True)
        (target / METRICS).unlink(missing_ok=True)  # a directory without it is not a run
        for name in (ENCODER, FIGURES, FOLDS):
            shutil.rmtree(target / name, ignore_errors=True)
        written = [path.name for path in folder.iterdir()]
        for name in EVERY_FILE - set(written):
            (target / name).unlink(missing_ok=True)
        for name in sorted(written, key=lambda name: name == METRICS):
            (folder / name).replace(target / name)


def parquet(table: pl.DataFrame) -> bytes:
    """Return a table as the bytes of a Parquet file.

    Writing bytes ourselves lets us recognise the error for a full disk; the error from polars does not show it.
    """
    data = io.BytesIO()
    table.write_parquet(data)
    return data.getvalue()


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """Make an empty temporary folder next to ``target``, and remove it at the end."""
    target = target.resolve()  # "." has no name to build a sibling's name from
    folder = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def to_json(value: Any) -> str:
    """Return a value as JSON text; null stands for numbers that are not finite."""
    return json.dumps(without_nan(value), indent=2, ensure_ascii=False, default=str, allow_nan=False) + "\n"


def described(store: Store, names: Sequence[str]) -> dict[str, Any]:
    """Return what identifies features: their spec, and a fingerprint that changes when any stored value does."""
    found = {name: store.features(name) for name in names}
    return {name: {**f.spec.to_dict(), "fingerprint": f.fingerprint} for name, f in found.items()}


def environment() -> dict[str, str]:
    packages = ("headwater", "numpy", "scikit-learn", "polars")
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}
