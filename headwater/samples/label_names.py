"""Mappings of labels by the user, from a file or label by label."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headwater._checks import whole_in
from headwater._reading import read_regular
from headwater._words import counted
from headwater.errors import InputError, ManifestError, nearest
from headwater.samples.columns import keep_samples
from headwater.samples.labels import Labels, labels_there
from headwater.samples.missing import MissingRule
from headwater.samples.selection import Selection
from headwater.sources import read_text_table
from headwater.store import Data

SUFFIXES = (".csv", ".tsv", ".toml")
FORM = 'a table of two columns, from and to (.csv, .tsv), or lines of "from" = "to" (.toml)'
LabelMap = dict[str, str | None]


def mapping_of(given: Mapping[str, str | None] | str | Path | None, option: str) -> LabelMap:
    """Return a mapping, as given or read from a file; an empty target leaves a label out.

    Raises
    ------
    InputError
        When the file does not exist or is not a mapping.
    """
    if given is None:
        return {}
    if isinstance(given, Mapping):
        return {str(name): target or None for name, target in given.items()}
    path = Path(given)
    if path.suffix not in SUFFIXES:
        raise InputError(f"{option} {path}: pass {FORM}.")
    try:
        pairs = _of_toml(path, option) if path.suffix == ".toml" else _of_table(path, option)
    except FileNotFoundError as error:
        raise InputError(f"{option} {path}: no such file.") from error
    out: LabelMap = {}
    for name, target in pairs:
        if name in out:
            raise InputError(f"{option} {path}: {name!r} is mapped twice.")
        out[name] = target or None
    if not out:
        raise InputError(f"{option} {path} is empty: pass {FORM}.")
    return out


def with_merge(selection: Selection) -> Selection:
    """Return a selection whose ``merge`` is a mapping, read from its file if it names one."""
    return replace(selection, merge=mapping_of(selection.merge, "--merge"))


OTHERS = "*"
"""In a mapping: all labels that it does not name."""


def with_others(mapping: Mapping[str, str | None], known: Iterable[str]) -> Mapping[str, str | None]:
    """Return a mapping that names every label that ``"*"`` stands for: those that are neither named nor a target.

    Examples
    --------
    >>> with_others({"glioma": "tumour", "*": "other"}, ["glioma", "cyst", "scar"])
    {'glioma': 'tumour', 'cyst': 'other', 'scar': 'other'}
    """
    if OTHERS not in mapping:
        return mapping
    named = {name: target for name, target in mapping.items() if name != OTHERS}
    kept = set(named) | set(named.values()) | {mapping[OTHERS]}
    return {**named, **{name: mapping[OTHERS] for name in known if name not in kept}}


def naming_others(selection: Selection, labels: Sequence[str], table: pl.DataFrame, rule: MissingRule) -> Selection:
    """Return a selection whose ``merge`` names every label of a table that ``"*"`` stands for."""
    if not isinstance(selection.merge, Mapping) or OTHERS not in selection.merge:
        return selection
    known = labels_there(rule.tidied(table), labels, selection.label_separator)
    return replace(selection, merge=with_others(selection.merge, known))


def merged_by(
    selection: Selection, data: Data, found: Labels, labels: Sequence[str], table: pl.DataFrame, rule: MissingRule
) -> tuple[Data, Labels]:
    """Return labels merged as a selection says, whose mapping may name any label of a table of all samples."""
    if not isinstance(selection.merge, Mapping) or not selection.merge:
        return data, found
    known = labels_there(rule.tidied(table), labels, selection.label_separator)
    return merged(data, found, selection.merge, known)


def refuse_unknown(mapping: Mapping[str, str | None], there: Iterable[str], option: str) -> None:
    """Raise `InputError` for a label that does not occur, with the nearest one that does."""
    known = list(there)
    for name, target in mapping.items():
        if name not in known:
            raise InputError(f"{option} {name}={target or ''}: no sample has label {name!r}.{nearest(name, known)}")


def merged(data: Data, found: Labels, mapping: Mapping[str, str | None], known: Iterable[str]) -> tuple[Data, Labels]:
    """Return labels merged by a mapping.

    Samples whose label is left out are removed; with several labels per sample, only that label is. A sample with any
    of several merged labels has the merged label.

    Parameters
    ----------
    data, found
        The samples, and their labels in the table.
    mapping
        From labels to merged labels; None leaves a label out.
    known
        All labels in the store, including those of samples that are not selected.

    Raises
    ------
    InputError
        When the mapping names a label that does not occur, maps to a label that it also maps, or leaves fewer than two
        labels.
    """
    refuse_unknown(mapping, known, "--merge")
    for name, target in mapping.items():
        if target is not None and mapping.get(target, target) != target:
            raise InputError(f"--merge {name}={target}: {target!r} is itself mapped to {mapping[target]!r}. Use that.")
    if found.names is not None:
        return data, _merged_columns(found, mapping)
    words = [str(value) for value in found.y.tolist()]
    keep = np.array([mapping.get(word, word) is not None for word in words])
    values = found.y if not any(word in mapping for word in words) else _values(found.y, mapping)
    if len(set(values[keep].tolist())) < 2:
        raise InputError("--merge leaves fewer than two labels: there is nothing to learn.")
    if keep.all():
        return data, Labels(values, None)
    return keep_samples(data, keep, "left out by --merge"), Labels(values[keep], None)


def _values(y: NDArray[Any], mapping: Mapping[str, str | None]) -> NDArray[Any]:
    """Return merged classes; they stay integers if all of them are."""
    words = [mapping.get(str(value), str(value)) or "" for value in y.tolist()]
    if y.dtype.kind in "iu" and all(whole_in(word.removeprefix("-")) is not None for word in words if word):
        return np.array([int(word or 0) for word in words], np.int64)
    return np.array(words, dtype=object)


def _merged_columns(found: Labels, mapping: Mapping[str, str | None]) -> Labels:
    """Return 0/1 for each merged label: whether a sample has any of its labels."""
    own = found.names or []
    means = [mapping.get(name, name) for name in own]
    names = list(dict.fromkeys(name for name in means if name is not None))
    if own == sorted(own):
        names.sort()
    if len(names) < 2:
        raise InputError(f"--merge leaves {counted(len(names), 'label')}, but at least two are needed.")
    y = np.zeros((len(found.y), len(names)), np.int64)
    for column, name in enumerate(means):
        if name is not None:
            y[:, names.index(name)] |= found.y[:, column]
    return Labels(y, names)


def _of_table(path: Path, option: str) -> list[tuple[str, str]]:
    try:
        table = read_text_table(path)
    except ManifestError as error:
        raise InputError(f"{option} {error} Pass {FORM}.") from error
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(f"{option} {path} cannot be read ({error.strerror or error}).") from error
    if set(table.columns) != {"from", "to"}:
        raise InputError(f"{option} {path} has the columns {', '.join(table.columns)}, but needs from and to.")
    pairs = [((name or "").strip(), (target or "").strip()) for name, target in table.select("from", "to").iter_rows()]
    for row, (name, _) in enumerate(pairs, 1):
        if not name:
            raise InputError(f"{option} {path}: row {row} has no label in column from.")
    return pairs


def _of_toml(path: Path, option: str) -> list[tuple[str, str]]:
    try:
        values = tomllib.loads(read_regular(path).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{option} {path} is not TOML: {error}.") from error
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(f"{option} {path} cannot be read ({error.strerror or error}).") from error
    for name, target in values.items():
        if not isinstance(target, str):
            raise InputError(f"{option} {path}: the value of {name!r} must be a label in quotes.")
    return list(values.items())
