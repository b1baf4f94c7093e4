"""The column of groups that a split keeps whole, such as the patient."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import polars as pl

from headwater._missing import missing_words
from headwater.errors import InputError
from headwater.evaluate.options import Protocol
from headwater.samples.columns import Samples, require_column, without_blanks
from headwater.samples.selection import Selection

# Names, in lower-case letters and digits only, of columns that may group samples.
PATIENT_COLUMNS = {
    *("patient", "patients", "patientid", "patientno", "patientnr", "pid", "mrn"),
    *("subject", "subjectid", "participant", "participantid", "donor", "donorid"),
    *("case", "caseid", "exam", "examid", "studyid", "slide", "slideid"),
}


def group_column(store: Samples, groups: str | None, *whole: str | None) -> str | None:
    """Return the column of groups; raise an error if none was given and the samples have an obvious one.

    Columns in ``whole`` (``--bags`` and ``--per``) do not count, since splits keep them whole anyway.
    """
    if groups == "none":
        return None
    if groups is not None:
        return groups
    known = store.about.groups  # a data set may name its groups otherwise, such as video
    for column in dict.fromkeys((*known, *store.samples.columns)):
        groups_rows = column in known or _letters(column) in PATIENT_COLUMNS
        if column not in whole and groups_rows and _repeats(store.samples[column]):
            raise InputError(
                f"the manifest has a column {column!r}: pass --groups {_shell(column)} to keep rows of the same "
                "value together, in splits and intervals, or --groups none if rows are independent."
            )
    return None


def require_columns(store: Samples, labels: Sequence[str], protocol: Protocol, selection: Selection) -> Protocol:
    """Return the protocol with its column of groups; refuse columns that do not exist."""
    options = ("--time", "--event") if protocol.survival else ("--label",) * len(labels)
    for option, column in zip(options, labels, strict=True):
        require_column(store, column, option)
    settled = replace(protocol, groups=group_column(store, protocol.groups, selection.bags, protocol.per))
    for option, name in {**settled.columns, "--bags": selection.bags, "--views": selection.views}.items():
        if name is not None:
            require_column(store, name, option)
    return settled


def _letters(column: str) -> str:
    """Return a column's name in lower case, letters and digits only: ``Patient.ID`` is ``patientid``."""
    return re.sub(r"[\W_]+", "", column.lower())


def _repeats(values: pl.Series) -> bool:
    """Whether some value occurs in several rows; empty cells and words such as NA do not count."""
    there = values if values.dtype.is_nested() else without_blanks(values).drop_nulls()
    there = there.filter(~missing_words(there)) if there.dtype == pl.String else there
    return bool(there.n_unique() < len(there))


def _shell(word: str) -> str:
    return word if re.fullmatch(r"[\w.-]+", word) else f"{word!r}"
