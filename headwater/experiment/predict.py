"""What a run's saved head says of new cases: scores, decisions, and how far they are like the training data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headwater._progress import Progress
from headwater.errors import HeadError, HeadwaterError
from headwater.evaluate.conformal import PredictionSets
from headwater.evaluate.measured import WITHOUT_CLASSES
from headwater.evaluate.novelty import Reference, fit_reference
from headwater.evaluate.risk_groups import NAMES
from headwater.experiment.apply import SavedHead, is_tuned, name_of
from headwater.experiment.trained_on import TrainedOn
from headwater.runs.bundle import cases_of
from headwater.runs.predictions import RISK, output_ends
from headwater.runs.run import Run
from headwater.samples.inputs import samples_behind
from headwater.samples.vectors import vectors_of
from headwater.store import Data, Store

N_NEAREST = 5
ROWS_AT_ONCE = 256
SAME = {"image": "same image", "text": "same text"}
SAME_GROUP = "same {column}"


@dataclass(frozen=True, eq=False)
class Past:
    """The training cases of a run, with which new cases are compared; each part is None if it is unknown.

    Attributes
    ----------
    reference
        Distances of left-out training rows.
    trained
        The training samples: their contents and groups, and their rows.
    ids, labels
        Names of the training rows and what they were, of shape ``(n_rows,)``.
    vectors
        Their vectors, ``(n_rows, dim)``.
    why_unknown
        For people: why something is unknown.
    """

    reference: Reference | None = None
    trained: TrainedOn | None = None
    ids: Sequence[str] | None = None
    labels: Sequence[str] | None = None
    vectors: NDArray[np.float32] | None = None
    why_unknown: Sequence[str] = ()

    @property
    def compares(self) -> bool:
        """Whether vectors of new cases are needed."""
        return self.reference is not None or self.vectors is not None

    @classmethod
    def of(cls, run: Run) -> Past:
        """Find the training cases of a run in its store."""
        if "bundle" in run.config:
            return cls._of_bundle(run)
        if run.config["command"] == "zero-shot":
            return cls(why_unknown=["nothing was fitted, so there are no training cases to compare with"])
        try:
            trained = TrainedOn.of(run)
        except HeadwaterError as error:
            return cls(run.reference, why_unknown=[f"the training cases are out of reach: {error}"])
        if trained.rows is None:
            why = "the run trained its encoder and stored no features, so nearest training cases are unknown"
            return cls(run.reference, trained, why_unknown=[why])
        ids, labels = trained.rows.ids.tolist(), _labels_of(run, trained.rows)
        vectors = trained.vectors
        reference = run.reference
        if reference is None and vectors is not None:  # written by a sweep, or by an older version
            reference = fit_reference(vectors, _groups_of(trained), seed=int(run.config.get("seed", 0)))
        few = [] if reference is not None else ["too few training groups to say how unlike these a new case is"]
        return cls(reference, trained, ids, labels, vectors, few)

    @classmethod
    def _of_bundle(cls, run: Run) -> Past:
        """Return what a bundle holds of training cases: their distances, and the cases if it was made with them."""
        found = cases_of(run)
        if found is None:
            return cls(run.reference, why_unknown=["the bundle holds no training cases, so the nearest are unknown"])
        arrays, names = found
        labels = names["labels"]
        keys = {modality: pl.Series(words, dtype=pl.String) for modality, words in names["keys"].items()}
        ids = [f"case {number}" for number in range(1, len(labels) + 1)]
        trained = TrainedOn(keys, None, None, "")
        return cls(run.reference, trained, ids, labels, np.asarray(arrays["vectors"], np.float32))


@dataclass(frozen=True, eq=False)
class Predictor:
    """A run's saved head with its decisions and its training cases, ready for new cases.

    Attributes
    ----------
    run
        The run.
    past
        Its training cases.
    """

    run: Run
    past: Past = field(default_factory=Past)

    @classmethod
    def of(cls, run: Run, say: Progress) -> Predictor:
        """Return the predictor of a run, with its training cases if they can be found."""
        past = Past.of(run)
        for line in past.why_unknown:
            say(f"note: {line}")
        return cls(run, past)

    def predict(
        self,
        saved: SavedHead,
        store: Store,
        data: Data,
        where: str | None = None,
        frozen: NDArray[np.float32] | None = None,
    ) -> pl.DataFrame:
        """Return a row for each case.

        Parameters
        ----------
        saved
            The saved head on the store's features.
        store, data, where
            The cases, as ``saved.what`` reads them.
        frozen
            For a run that trained its encoder: vectors of the cases by the encoder as it was before, of shape
            ``(n_cases, dim)``; without them it is unknown how unlike the training data a case is.

        Returns
        -------
        polars.DataFrame
            ``id``; the predicted class, labels, number or risk; ``decision`` at the run's threshold; ``set``, the
            prediction set; ``score_<class>``; ``unlike_training``, a percentile; ``seen_in_training``, why a case
            counts as seen, null if it does not; ``nearest``, ids of the nearest training cases, with ``nearest_labels``
            and ``nearest_cosines``. Columns that the run cannot give are left out.
        """
        if len(data.ids) == 0:
            return pl.DataFrame({"id": data.ids, **judged(saved, saved.scores(data))})
        if is_tuned(self.run):
            vectors = frozen if self.past.compares else None
        else:
            vectors = vectors_of(store, saved.what, where, data) if self.past.compares else None
        samples, of_row = samples_behind(store, saved.what, where, data)
        return self.described(saved, data, vectors, samples.table, of_row)

    def described(
        self,
        saved: SavedHead,
        data: Data,
        vectors: NDArray[np.float32] | None,
        samples: pl.DataFrame,
        of_row: NDArray[np.int64],
    ) -> pl.DataFrame:
        """Return a row for each case whose inputs are at hand; see `predict`.

        Parameters
        ----------
        data
            The inputs of the head.
        vectors
            Their vectors, as of `headwater.samples.vectors`; None if there is nothing to compare them with.
        samples, of_row
            The samples behind the rows with the keys of their contents, and the row of each.
        """
        columns: dict[str, Any] = {"id": data.ids, **judged(saved, saved.scores(data))}
        if vectors is not None:
            columns |= self._alike(vectors)
        if self.past.trained is not None:
            columns["seen_in_training"] = self._seen(samples, of_row, len(data.ids), self.past.trained)
        return pl.DataFrame(columns)

    def _alike(self, V: NDArray[np.float32]) -> dict[str, Any]:
        """Return how unlike the training data rows are, and the nearest training rows of each."""
        past = self.past
        out: dict[str, Any] = {}
        if past.reference is not None:
            _require_width(past.reference.dim, V, self.run)
            out["unlike_training"] = past.reference.percentile(V)
        if past.vectors is not None and past.ids is not None and past.labels is not None:
            _require_width(past.vectors.shape[1], V, self.run)
            cosines, rows = nearest(past.vectors, V, N_NEAREST)
            out["nearest"] = pl.Series([[past.ids[row] for row in of] for of in rows.tolist()])
            out["nearest_labels"] = pl.Series([[past.labels[row] for row in of] for of in rows.tolist()])
            out["nearest_cosines"] = pl.Series(
                np.round(cosines.astype(np.float64), 6).tolist(), dtype=pl.List(pl.Float64)
            )
        return out

    def _seen(self, samples: pl.DataFrame, of_row: NDArray[np.int64], n_rows: int, trained: TrainedOn) -> pl.Series:
        """Return why each case counts as one of the training data; null if it does not."""
        why: list[str | None] = [None] * n_rows
        holds = trained.holds(samples)
        if "image" in holds:
            holds.pop("text", None)  # the same sentence may be written of many images
        found: dict[str, NDArray[np.bool_]] = {SAME[kind]: same for kind, same in holds.items()}
        column = trained.column
        if column is not None and trained.groups is not None and column in samples.columns:
            of_group = samples[column].cast(pl.String).is_in(list(trained.groups))
            found = {SAME_GROUP.format(column=column): of_group.fill_null(False).to_numpy(), **found}
        for words, here in found.items():  # the content says more than the group
            for row in of_row[here].tolist():
                why[row] = words
        return pl.Series(why, dtype=pl.String)


def judged(saved: SavedHead, scores: NDArray[np.float64]) -> dict[str, Any]:
    """Return the columns of predictions, decisions, sets and scores.

    Parameters
    ----------
    scores
        As of `SavedHead.scores`.
    """
    task, decision = saved.task, saved.run.decision
    if not np.isfinite(scores).all():
        raise HeadError(
            f"{name_of(saved.run)}: the head gives scores that are not numbers, so it was damaged, or its training "
            "failed. Fit it again."
        )
    words = [str(name) for name in saved.classes]
    if task == "regression":
        return {f"predicted{end}": scores[:, c] for c, end in enumerate(output_ends(words))}
    if task == "survival":
        return {RISK: scores[:, 0], **_risk_groups(decision, scores[:, 0])}
    out: dict[str, Any] = {}
    if task == "multilabel":
        out["predicted"] = _named(scores > 0.5, words)
        order = np.argsort(-scores, axis=1, kind="stable")
        out["findings"] = pl.Series([[words[c] for c in row] for row in order.tolist()], dtype=pl.List(pl.String))
    else:
        out["predicted"] = pl.Series([saved.classes[c] for c in scores.argmax(1).tolist()], strict=False)
    if "threshold" in decision:
        called = scores[:, 1] >= float(decision["threshold"]["threshold"])
        out["decision"] = pl.Series([words[int(one)] for one in called], dtype=pl.String)
    if "conformal" in decision:
        out["set"] = _named(_sets(decision)(scores), words)
    return out | {f"score_{name}": scores[:, c] for c, name in enumerate(words)}


def threshold_words(run: Run) -> str | None:
    """Return in words the rule of the column ``decision``; None if the run has no threshold."""
    if "threshold" not in run.decision:
        return None
    chosen = run.decision["threshold"]
    return (
        f"{chosen['positive']} from a probability of {chosen['threshold']:.3g}, chosen for a {chosen['target']} of "
        f"{chosen['at']:g}"
    )


def nearest(
    vectors: NDArray[np.float32], queries: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the cosines and rows of the ``k`` nearest vectors of each query, the nearest first; ties in order of rows.

    Parameters
    ----------
    vectors : float32 array of shape (n, dim)
        Of length 1.
    queries : float32 array of shape (m, dim)

    Returns
    -------
    cosines : float32 array of shape (m, min(k, n))
    rows : int64 array of the same shape
    """
    k = min(k, len(vectors))
    cosines, rows = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
    for start in range(0, len(queries), ROWS_AT_ONCE):
        here = slice(start, start + ROWS_AT_ONCE)
        found = queries[here] @ vectors.T
        rows[here] = np.argsort(-found, axis=1, kind="stable")[:, :k]
        cosines[here] = np.take_along_axis(found, rows[here], axis=1)
    return cosines, rows


def _sets(decision: Mapping[str, Any]) -> PredictionSets:
    least = decision["conformal"]["least"]
    return PredictionSets(tuple(-np.inf if value is None else float(value) for value in least))


def _risk_groups(decision: Mapping[str, Any], risks: NDArray[np.float64]) -> dict[str, Any]:
    """Return the risk group of each row, if the run has any."""
    if "risk_groups" not in decision:
        return {}
    at = np.array(decision["risk_groups"]["thresholds"], np.float64)
    names = NAMES[len(at) + 1]
    return {"risk_group": [names[group] for group in np.searchsorted(at, risks, "left").tolist()]}


def _named(chosen: NDArray[np.bool_], names: Sequence[str]) -> pl.Series:
    return pl.Series([[names[c] for c in np.flatnonzero(row).tolist()] for row in chosen], dtype=pl.List(pl.String))


def _labels_of(run: Run, rows: Data) -> list[str]:
    """Return what each training row was, as text; names that the run merged are merged."""
    label = run.config.get("label")
    columns = [label] if isinstance(label, str) else list(label or ())
    means = run.config.get("merge") or {}
    if len(columns) == 1:
        words, separator = rows.table[columns[0]], run.config.get("label_separator")
        if separator:
            words = words.cast(pl.String).str.split(separator)
        if words.dtype == pl.List:
            return ["; ".join(str(means.get(str(w), w)) for w in row) for row in words.to_list()]
        return [str(means.get(str(word), word)) for word in words.to_list()]
    if run.metrics["task"] in WITHOUT_CLASSES:
        return [", ".join(f"{c} {row[c]}" for c in columns) for row in rows.table.select(columns).to_dicts()]
    return ["; ".join(c for c in columns if _is_one(row[c])) for row in rows.table.select(columns).to_dicts()]


def _is_one(value: Any) -> bool:
    return str(value).strip().lower() in ("1", "1.0", "true")


def _groups_of(trained: TrainedOn) -> NDArray[Any] | None:
    if trained.column is None or trained.rows is None:
        return None
    return trained.rows.table[trained.column].cast(pl.String).fill_null("").to_numpy()


def _require_width(dim: int, V: NDArray[Any], run: Run) -> None:
    if V.shape[1] != dim:
        raise HeadError(
            f"{name_of(run)}: its training cases have vectors of {dim} numbers, but the new cases of {V.shape[1]}: the "
            "run was edited or is damaged. Make it again."
        )
