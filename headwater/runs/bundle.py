"""Bundles: a run's head with what new cases need, in one file that holds data only and can be sent.

A bundle is a zip file whose members are not compressed: JSON, safetensors and Markdown. ``digests.json`` has the digest
of every other member. ``bundle.json`` says what is in it; its schema is ``docs/schemas/bundle.schema.json``.
"""

from __future__ import annotations

import io
import json
import os
import stat
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import msgspec
import numpy as np
import polars as pl

from headwater._reading import SMALL, open_regular, parse_json, read_json
from headwater._schema import Count, Word, read_as
from headwater._tensors import read_arrays
from headwater.errors import HeadError, InputError
from headwater.evaluate.novelty import Reference
from headwater.heads import load_head
from headwater.runs.decided import require_decisions
from headwater.runs.predictions import names_key
from headwater.runs.run import REFERENCE, Run

FORMAT = 1
DESCRIPTION, DIGESTS, CARD, PROBE = "bundle.json", "digests.json", "README.md", "probe.safetensors"
CASES, CASE_NAMES = "cases.safetensors", "cases.json"
WEIGHTS = "weights"
"""Folder of encoders' weights: a file of tensors, or a model's folder, for each encoder."""
SUFFIXES = (".json", ".safetensors", ".md", ".txt", ".model")
"""Ends of the names of members: what libraries read as data. No code, and nothing that is unpickled."""
MOST_MEMBERS = 10_000
DATE = (1980, 1, 1, 0, 0, 0)
CHUNK = 1 << 20
LONGEST = 1.01  # of a vector of length 1, rounded to float16


@dataclass(frozen=True, kw_only=True)
class Description:
    """Contents of ``bundle.json``.

    Attributes
    ----------
    format, headwater
        Version of this format, and of the headwater that wrote it.
    command, head, task
        How the run was made, the kind of its head, and what it predicts.
    names
        Classes from negative to positive, grades from the lowest, labels, or outputs.
    features
        The spec of each feature set that the head reads.
    tokens
        Those whose tokens are read.
    missing, bags, views, view_levels
        How samples form rows, as in the run.
    groups
        The column of groups that splits kept whole, such as the patient.
    decision
        Calibrator, threshold, prediction sets and risk groups.
    positive
        The positive class of a binary task.
    performance
        ``mean``, ``std`` and ``intervals`` of each metric, with ``n_samples``, ``n_groups`` and ``n_folds``.
    encoders
        Where a bundle with weights holds each encoder, by the name of its features.
    adapters
        Where it holds trained adapters, by the name of the features.
    cases
        Whether it holds training cases.
    """

    format: Literal[1] = 1
    headwater: Word
    command: Literal["fit-head", "zero-shot", "fine-tune"]
    head: Word
    task: Literal["binary", "multiclass", "multilabel", "regression", "survival", "ordinal"]
    names: list[Word | int | float | bool]
    features: dict[Word, dict[str, Any]]
    tokens: list[Word] = field(default_factory=list)
    missing: Literal["drop", "keep"] = "drop"
    bags: Word | None = None
    views: Word | None = None
    view_levels: list[Word] = field(default_factory=list)
    groups: Word | None = None
    decision: dict[str, Any] = field(default_factory=dict)
    positive: dict[str, Any] | None = None
    performance: dict[str, Any] = field(default_factory=dict)
    encoders: dict[Word, Word] = field(default_factory=dict)
    adapters: dict[Word, Word] = field(default_factory=dict)
    cases: bool = False


class _Digests(msgspec.Struct, frozen=True):
    """Contents of ``digests.json``: the digest and number of bytes of every other member."""

    members: dict[Word, tuple[Word, Count]]


def schema() -> dict[str, Any]:
    """Return the JSON schema of ``bundle.json``."""
    found = msgspec.json.schema(Description)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "headwater bundle", **found}


def write_bundle(path: Path, description: Description, files: Mapping[str, bytes | Path]) -> str:
    """Write a bundle, beside its place first; return its digest, by which a receiver can recognise it.

    Equal contents make an equal file.

    Parameters
    ----------
    files
        Contents, or files to copy, by the name of the member.
    """
    members: dict[str, bytes | Path] = {**files, DESCRIPTION: _as_json(asdict(description))}
    for name in members:
        try:
            _require_name(name)
        except ValueError as error:
            raise InputError(f"{path}: {error}, which a bundle cannot hold. Rename it.") from error
    digests = {name: (_digest(members[name]), _n_bytes(members[name])) for name in sorted(members)}
    listed = _as_json({"members": digests})
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.tmp")
    try:
        with zipfile.ZipFile(beside, "w", zipfile.ZIP_STORED) as out:
            for name in sorted({**members, DIGESTS: b""}):
                content = listed if name == DIGESTS else members[name]
                with out.open(zipfile.ZipInfo(name, DATE), "w", force_zip64=True) as member:
                    for part in _parts(content):
                        member.write(part)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return _digest(listed)


def is_bundle(path: str | Path | Run) -> bool:
    """Whether a path is that of a bundle, by its name or by how the file begins."""
    if isinstance(path, Run):
        return False
    place = Path(path)
    if place.suffix == ".zip":
        return True
    try:
        with open_regular(place) as file:
            return file.read(4) == b"PK\x03\x04"
    except (OSError, ValueError):
        return False


def open_bundle(path: str | Path, folder: Path) -> Run:
    """Unpack a bundle into an empty folder, and read it as a run.

    Raises
    ------
    HeadError
        When it is no bundle, was cut short or edited, or is of a newer format.
    """
    path = Path(path)
    try:
        _unpack(path, folder)
        told = read_json(folder / DESCRIPTION)
        if isinstance(told, dict) and told.get("format") != FORMAT:
            raise HeadError(
                f"{path}: the bundle has format {told.get('format')}, but this headwater reads format {FORMAT}. "
                "Upgrade headwater."
            )
        found = read_as(Description, told)
        require_decisions(found.decision, found.task, found.names)
        reference = Reference.from_arrays(read_arrays(folder / REFERENCE)) if (folder / REFERENCE).exists() else None
    except FileNotFoundError as error:
        name = Path(str(error.filename)).name if error.filename else "a member"
        raise HeadError(f"{path}: no bundle here ({name} is missing). Make one with: headwater bundle RUN") from error
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        if isinstance(error, HeadError):
            raise
        why = str(error) or type(error).__name__
        raise HeadError(f"{path}: not a bundle, or cut short or edited ({why}). Fetch it again.") from error
    try:
        head = load_head(folder)
        _require_classes(head, found)
    except HeadError as error:
        raise HeadError(str(error).replace(f"{folder}:", f"{path}:")) from error
    except ValueError as error:
        raise HeadError(f"{path}: not a bundle, or cut short or edited ({error}). Fetch it again.") from error
    return Run(
        folder, _config(found, path, folder), _metrics(found), pl.DataFrame(), head, found.decision, reference=reference
    )


def _require_classes(head: Any, found: Description) -> None:
    """Refuse a description that calls the head's classes by other names."""
    own = [name for name in getattr(head, "classes_", ()) if isinstance(name, str)]
    if own and found.task != "multilabel" and sorted(own) != sorted(map(str, found.names)):
        raise ValueError("it names other classes than its head")


def name_of_bundle(run: Run) -> str | None:
    """Return the path of the bundle that a run was read from; None for a run."""
    name: str | None = run.config.get("bundle")
    return name


def cases_of(run: Run) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Return the arrays and names of the training cases in a bundle; None if it holds none.

    Arrays: ``vectors``, float16 of shape ``(n, dim)``. Names: ``labels`` of the cases, and ``keys`` of their contents
    by modality.
    """
    if run.path is None or not run.config["cases"]:
        return None
    try:
        arrays = read_arrays(run.path / CASES)
        names = read_as(_Cases, read_json(run.path / CASE_NAMES))
        if set(arrays) != {"vectors"} or arrays["vectors"].ndim != 2 or len(arrays["vectors"]) != len(names.labels):
            raise ValueError("vectors and labels do not fit together")
        vectors = arrays["vectors"]
        if vectors.dtype.kind != "f" or not len(vectors) or not np.isfinite(vectors).all():
            raise ValueError("vectors hold other values than numbers")
        if (np.linalg.norm(vectors.astype(np.float32), axis=1) > LONGEST).any():
            raise ValueError("vectors are longer than 1")
    except (OSError, ValueError) as error:
        raise HeadError(
            f"{run.config['bundle']}: its training cases cannot be read ({error}). Fetch it again."
        ) from error
    return arrays, {"labels": names.labels, "keys": names.keys}


class _Cases(msgspec.Struct, frozen=True):
    """Contents of ``cases.json``."""

    labels: list[Word]
    keys: dict[Literal["image", "text"], list[Word]]


_AS_IN_CONFIG = ("tokens", "missing", "bags", "views", "view_levels", "groups", "cases")


def _config(found: Description, path: Path, folder: Path) -> dict[str, Any]:
    """Return what stands for ``config.json`` of a run; encoders and adapters are where they were unpacked."""
    features = {}
    for name, spec in found.features.items():
        base = name.rpartition("/")[0]
        place = found.encoders.get(base)
        if place is not None and not place.endswith(".safetensors"):  # a model's folder is named by the spec
            model, mark, words = str(spec.get("encoder", "")).partition("?")
            backend = model.partition(":")[0]
            local = "local-dir:" if backend in ("timm", "open_clip") else ""
            spec = {**spec, "encoder": f"{backend}:{local}{_inside(folder, place)}{mark}{words}"}
        features[name] = spec
    return {
        "command": found.command,
        "head": found.head,
        "features": features,
        **{
            name: getattr(found, name)
            for name in ("tokens", "missing", "bags", "views", "view_levels", "groups", "cases")
        },
        "seed": 0,
        "bundle": str(path.absolute()),
        "weights": {b: str(_inside(folder, p)) for b, p in found.encoders.items() if p.endswith(".safetensors")},
        "adapters": {base: str(_inside(folder, place)) for base, place in found.adapters.items()},
    }


def _inside(folder: Path, place: str) -> Path:
    _require_name(f"{place}/x.json" if not place.endswith(SUFFIXES) else place)
    return folder.resolve() / place


def _metrics(found: Description) -> dict[str, Any]:
    """Return what stands for ``metrics.json`` of a run."""
    positive = {} if found.positive is None else {"positive": found.positive}
    return {"task": found.task, names_key(found.task): found.names, "n_samples": 0, **found.performance, **positive}


def _unpack(path: Path, folder: Path) -> None:
    """Write the members into a folder, each checked against its digest."""
    with open_regular(path) as file, zipfile.ZipFile(file) as held:
        members = held.infolist()
        if len(members) > MOST_MEMBERS:
            raise ValueError(f"{len(members):,} members")
        names = [member.filename for member in members]
        if len(set(names)) < len(names):
            raise ValueError("a member twice")
        for member in members:
            _require_name(member.filename)
            kind = stat.S_IFMT(member.external_attr >> 16)
            if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1 or kind not in (0, stat.S_IFREG):
                raise ValueError(f"{member.filename} is compressed, encrypted or no file")
        if sum(member.file_size for member in members) > os.fstat(file.fileno()).st_size:
            raise ValueError("members that overlap")  # else a small file would fill the disk
        if DIGESTS not in names or held.getinfo(DIGESTS).file_size > SMALL:
            raise FileNotFoundError(2, "missing", DIGESTS)
        digests = read_as(_Digests, parse_json(held.read(DIGESTS))).members
        if set(digests) != set(names) - {DIGESTS}:
            raise ValueError("its members are not those that digests.json lists")
        for name, (wanted, n_bytes) in digests.items():
            if held.getinfo(name).file_size != n_bytes:
                raise ValueError(f"{name} has another length")
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            made = blake2b(digest_size=16)
            with held.open(name) as source, target.open("xb") as out:
                while part := source.read(CHUNK):
                    made.update(part)
                    out.write(part)
            if made.hexdigest() != wanted:
                raise ValueError(f"{name} has another digest")


def digest_of_bundle(path: Path) -> str:
    """Return the digest of a bundle that was opened before."""
    with zipfile.ZipFile(path) as held:
        return _digest(held.read(DIGESTS))


def _require_name(name: str) -> None:
    """Refuse names of members that lead elsewhere, or that libraries would not read as data."""
    parts = PurePosixPath(name).parts
    plain = "\\" not in name and ":" not in name and name.isprintable() and not name.startswith("/")
    if not plain or not parts or any(part in ("..", ".") or part.startswith(".") for part in parts) or len(name) > 500:
        raise ValueError(f"a member is called {name!r}")
    if "/".join(parts) != name or not name.lower().endswith(SUFFIXES):
        raise ValueError(f"a member is called {name!r}")


def _as_json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _parts(content: bytes | Path) -> Iterator[bytes]:
    with io.BytesIO(content) if isinstance(content, bytes) else open_regular(content) as file:
        while part := file.read(CHUNK):
            yield part


def _digest(content: bytes | Path) -> str:
    made = blake2b(digest_size=16)
    for part in _parts(content):
        made.update(part)
    return made.hexdigest()


def _n_bytes(content: bytes | Path) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size
