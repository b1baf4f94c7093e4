"""The samples that a run's head was fitted on, and which others hold the same content or belong to the same group."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headwater._progress import Progress, silent
from headwater._words import counted
from headwater.errors import HeadwaterError
from headwater.experiment.apply import is_tuned, specs_of
from headwater.runs.run import Run
from headwater.samples.contents import kinds_of
from headwater.samples.inputs import Wanted, read_inputs, samples_behind
from headwater.samples.label_names import merged
from headwater.samples.label_sql import label_sql_of
from headwater.samples.labels import with_labels, with_numbers
from headwater.samples.missing import MissingRule
from headwater.samples.survival import with_times
from headwater.samples.vectors import vectors_of
from headwater.store import KEY_COLUMNS, Data, Modality, Store, open_store


@dataclass(frozen=True, eq=False)
class TrainedOn:
    """The samples that a run's head was fitted on.

    Attributes
    ----------
    keys
        For each modality, the hexadecimal keys of the samples' contents.
    groups
        Their groups; None if the run has none.
    column
        The column that holds the groups.
    place
        The store, or the manifest's folder: a group's name, such as a patient number, identifies it only there.
    n_unreadable
        Images that could not be read again.
    rows
        The rows with their features and columns; None for a run that trained its encoder.
    vectors
        A vector for each row, of shape ``(n_rows, dim)``; see `headwater.samples.vectors`. Computed when first used.
    """

    keys: Mapping[Modality, pl.Series]
    groups: frozenset[str] | None
    column: str | None
    place: str
    n_unreadable: int = 0
    rows: Data | None = None
    _read: Callable[[], NDArray[np.float32]] | None = None

    @cached_property
    def vectors(self) -> NDArray[np.float32] | None:
        return None if self._read is None else self._read()

    @classmethod
    def of(cls, run: Run) -> TrainedOn:
        """Find the samples in the run's store, or in the manifest of a run that trained its encoder.

        Raises
        ------
        HeadwaterError
            When the store or the manifest is gone, has changed, or was not recorded.
        """
        return _of_files(run) if is_tuned(run) else _of_store(run)

    def holds(self, samples: pl.DataFrame) -> dict[Modality, NDArray[np.bool_]]:
        """Return, for each modality, which samples have a content that the head was fitted on, ``(n_samples,)``."""
        return {
            kind: samples[KEY_COLUMNS[kind]].is_in(keys.drop_nulls().to_list()).fill_null(False).to_numpy()
            for kind, keys in self.keys.items()
        }

    def shared(self, samples: Data, groups: NDArray[Any] | None, column: str | None, place: str) -> dict[str, int]:
        """Count samples with the same content, by modality, and groups of the same name in the same place.

        Parameters
        ----------
        samples
            Other samples.
        groups, column, place
            Their groups, the column that holds these, and the store or folder of their manifest.
        """
        found: dict[str, int] = {kind: int(same.sum()) for kind, same in self.holds(samples.table).items()}
        if groups is not None and self.knows_groups(column, place):
            found["groups"] = len(set(groups.astype(str).tolist()) & (self.groups or frozenset()))
        return found

    def knows_groups(self, column: str | None, place: str) -> bool:
        """Whether groups of a column of another data set are those that the head was fitted on, if names agree."""
        return self.groups is not None and column == self.column and place == self.place


def shared_with(
    run: Run, samples: Data, store: Store, groups: NDArray[Any] | None, column: str | None, say: Progress
) -> dict[str, int] | None:
    """Count the contents and groups that samples of a store share with a head's training samples.

    Returns
    -------
    dict of str to int
        Counts by modality, and of ``groups``; empty if nothing was fitted; None if it is unknown, with a line that
        says why.
    """
    if run.config["command"] == "zero-shot":
        return {}
    try:
        trained = TrainedOn.of(run)
    except HeadwaterError as error:
        what = "the run was trained" if is_tuned(run) else "the head was fitted"
        say(f"cannot check whether {what} on any of these samples: {error}")
        return None
    place = store.roles.root if is_tuned(run) else store.full_location
    shared = trained.shared(samples, groups, column, str(place))
    if trained.n_unreadable and not any(shared.values()):
        unreadable = counted(trained.n_unreadable, "image")
        say(
            "cannot check whether the run was trained on any of these samples: "
            f"{unreadable} of {run.config['manifest']} cannot be read"
        )
        return None
    return shared


def _of_store(run: Run) -> TrainedOn:
    """Return the samples of the run's store that its head was fitted on."""
    config, own = run.config, list(specs_of(run))
    store = open_store(config["store"]).defining(label_sql_of(config))
    what = Wanted(
        tuple(own),
        frozenset(config.get("tokens", ())),
        config.get("missing") == "keep",
        config.get("bags"),
        tuple(config.get("samples_with", ())),
        config.get("views"),
        tuple(config.get("view_levels", ())),
    )
    used = [name for name in (*_labels_of(run), config.get("groups")) if name not in (None, "none")]
    read = read_inputs(store, what, config["where"], used, _rule_of(run, store.roles.id))
    rows = _labelled(run, read)
    samples, _ = samples_behind(store, what, config["where"], rows)
    keys = {kind: samples.table[KEY_COLUMNS[kind]] for kind in kinds_of(own)}
    read_vectors = partial(vectors_of, store, what, config["where"], rows)
    return TrainedOn(keys, *_groups_of(run, rows.table), store.full_location, rows=rows, _read=read_vectors)


def _of_files(run: Run) -> TrainedOn:
    """Return the samples of the manifest of a run that trained its encoder; their files are read again."""
    from headwater.embed.items import items_of
    from headwater.embed.plan import ManifestColumns
    from headwater.finetune.reading import read_samples

    config = run.config
    columns = ManifestColumns(config["image"], config["text"], config["id"])
    manifest, _ = read_samples(config["manifest"], columns, config["where"], label_sql_of(config))
    table = _rule_of(run, manifest.id).tidied(manifest.table)
    manifest = replace(manifest, table=table.filter(pl.all_horizontal(pl.col(config["label"]).is_not_null())))
    items = {kind: items_of(manifest, kind, None, "skip", silent) for kind in kinds_of(specs_of(run))}
    keys = {kind: pl.Series(of_kind.keys.to_list(), dtype=pl.String) for kind, of_kind in items.items()}
    unreadable = sum(len(of_kind.unreadable) for of_kind in items.values())
    return TrainedOn(keys, *_groups_of(run, manifest.table), str(manifest.root), unreadable)


def _labels_of(run: Run) -> list[str]:
    """Return the columns of a run's labels; a zero-shot run may have none."""
    label = run.config.get("label")
    return [] if label is None else [label] if isinstance(label, str) else list(label)


def _labelled(run: Run, read: Data) -> Data:
    """Return the rows that have a label, as the run read them."""
    labels, separator = _labels_of(run), run.config.get("label_separator")
    if not labels:
        return read
    if run.metrics["task"] == "regression":
        return with_numbers(read, labels)[0]
    if run.metrics["task"] == "survival":
        return with_times(read, labels)[0]
    data, found = with_labels(read, labels, separator)
    if means := run.config.get("merge"):
        data, _ = merged(data, found, means, known=means)
    return data


def _groups_of(run: Run, table: pl.DataFrame) -> tuple[frozenset[str] | None, str | None]:
    """Return the groups of a run's samples, and the column that holds them."""
    column = run.config.get("groups")
    if column in (None, "none") or column not in table.columns:
        return None, None
    return frozenset(table[column].drop_nulls().cast(pl.String).to_list()), column


def _rule_of(run: Run, ids: str) -> MissingRule:
    """Return the rule for missing values of a run; runs that do not record one had none."""
    groups = None if run.config.get("groups") == "none" else run.config.get("groups")
    words = tuple(run.config.get("missing_values", ()))
    return MissingRule(words, tuple(_labels_of(run)), (groups,), run.config.get("label_separator"), ids)
