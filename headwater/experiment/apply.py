"""A run's saved head on the features of a store: what it reads there, and its scores of the samples."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headwater._words import counted
from headwater.errors import InputError, SpecMismatch, StoreError
from headwater.evaluate import Task
from headwater.evaluate.calibration import calibrator_from_dict
from headwater.evaluate.class_order import in_order_of
from headwater.evaluate.measured import WITHOUT_CLASSES
from headwater.heads.persist import head_errors
from headwater.runs.predictions import names_key
from headwater.runs.run import Run
from headwater.samples.inputs import Wanted, given_to, parts_of
from headwater.store import Data, FeatureSpec, Store

IMPORTED = "imported:"
OF_FILES = ("encoder", "weights", "dtype", "preprocessing.source", "preprocessing.vectors")
"""What a spec of imported features says of their file: new cases come in another file."""


def name_of(run: Run) -> str:
    """Return what to call a run in messages: its absolute path."""
    if (bundle := run.config.get("bundle")) is not None:
        return str(bundle)
    return "a run that was not written" if run.path is None else str(run.path.resolve())


def specs_of(run: Run) -> dict[str, FeatureSpec]:
    """Return the spec of each feature set that a run's head reads; for zero-shot runs those of images, not of prompts.

    Raises
    ------
    InputError
        When the run is of an older version that did not record what its head reads.
    """
    found = {
        name: FeatureSpec.from_dict({k: v for k, v in spec.items() if k != "fingerprint"})
        for name, spec in run.config["features"].items()
    }
    if is_tuned(run) and "tokens" not in run.config:
        raise InputError(
            f"{name_of(run)} was made by an older version that did not record what its head reads. Run fine-tune again."
        )
    return dict(list(found.items())[:1]) if run.config["command"] == "zero-shot" else found


def is_tuned(run: Run) -> bool:
    """Whether a run trained its encoder, so that its head was fitted on features that were not stored."""
    return bool(run.config["command"] == "fine-tune")


@dataclass(frozen=True, eq=False)
class SavedHead:
    """A run's saved head, and the feature sets of a store that it reads.

    Attributes
    ----------
    run
        The run.
    own
        The feature sets that the head reads, by their names in the run.
    names
        The same feature sets by their names in the store.
    what
        What to read from the store, and how.
    """

    run: Run
    own: Sequence[str]
    names: Sequence[str]
    what: Wanted

    @classmethod
    def on(cls, run: Run, store: Store, features: str | Sequence[str] | None = None) -> SavedHead:
        """Find the feature sets that a run's head reads in a store.

        Parameters
        ----------
        features
            Their names in the store, in the run's order. Default: the names in the run.

        Raises
        ------
        InputError, SpecMismatch
            When the store lacks a feature set, or has it with another spec; the message says what to do.
        """
        specs = specs_of(run)
        own = list(specs)
        names = [features] if isinstance(features, str) else list(features or own)
        if len(names) != len(own):
            raise InputError(
                f"the run reads {' and '.join(own)}, but --features names {counted(len(names), 'feature set')}: name "
                "one for each, in that order."
            )
        for name, wanted in zip(names, specs.values(), strict=True):
            _require_same(run, store, name, wanted)
        config = run.config
        what = Wanted(
            tuple(names),
            frozenset(name for mine, name in zip(own, names, strict=True) if mine in config.get("tokens", ())),
            config.get("missing") == "keep",
            config.get("bags"),
            views=config.get("views"),
            levels=tuple(config.get("view_levels", ())),
        )
        return cls(run, own, names, what)

    @property
    def task(self) -> Task:
        """The run's task."""
        task: Task = self.run.metrics["task"]
        return task

    @property
    def classes(self) -> list[Any]:
        """The run's classes, labels or outputs, in the order of the scores; a positive class is last."""
        return list(self.run.metrics[names_key(self.task)])

    def inputs(self, data: Data) -> Any:
        """Return the head's inputs, by the names it was fitted with."""
        mine = dict(zip(self.names, self.own, strict=True))

        def by_own(name: str) -> str:
            view, colon, plain = name.rpartition(":")
            return f"{view}{colon}{mine[plain]}"

        named = replace(
            data,
            inputs={by_own(name): X for name, X in data.inputs.items()},
            present={by_own(name): part for name, part in data.present.items()},
        )
        return given_to(self.run.head, parts_of(named))

    def scores(self, data: Data, head: Any = None, *, calibrated: bool = True) -> NDArray[np.float64]:
        """Return scores of samples, calibrated if the run is, of shape ``(n, n_classes)``.

        Of regressions the predicted numbers, ``(n, n_outputs)``; of survival runs the risks, ``(n, 1)``.

        Parameters
        ----------
        head
            Another head of the run, such as that of a fold. Default: the saved head.
        """
        return scores_of_head(self.run, self.inputs(data), head, calibrated=calibrated)


def scores_of_head(run: Run, X: Any, head: Any = None, *, calibrated: bool = True) -> NDArray[np.float64]:
    """Return the scores of a run's saved head, or another of its heads, for inputs in the form that it takes."""
    head = run.head if head is None else head
    task = run.metrics["task"]
    where = None if run.path is None else Path(name_of(run))
    with head_errors(where), np.errstate(invalid="ignore", over="ignore"):  # whoever uses scores looks at these
        found = np.asarray(head.predict(X) if task in WITHOUT_CLASSES else head.predict_proba(X), np.float64)
    scores: NDArray[np.float64] = found.reshape(len(found), -1)
    if task not in WITHOUT_CLASSES:
        scores = in_order_of(head, run.metrics[names_key(task)], scores)
    if calibrated and "calibrator" in run.decision:
        scores = calibrator_from_dict(run.decision["calibrator"])(scores)
    return scores


def differences(run: Run, wanted: FeatureSpec, found: FeatureSpec) -> dict[str, tuple[Any, Any]]:
    """Return the fields in which features differ from those that a run's head was fitted on, with both values."""
    free: tuple[str, ...] = ()
    if is_tuned(run):  # that head was fitted on features that were not stored
        free = ("dtype", "tokens_dtype")
    if wanted.encoder.startswith(IMPORTED) and found.encoder.startswith(IMPORTED):
        free = OF_FILES
    return {field: both for field, both in wanted.differences(found).items() if field not in free}


def _require_same(run: Run, store: Store, name: str, wanted: FeatureSpec) -> None:
    """Refuse features that the store lacks, or has with another spec."""
    there = store.feature_names()

    def hint() -> str:
        for other in there:
            with suppress(StoreError):  # an error in features that were not asked for
                if not differences(run, wanted, store.features(other).spec):
                    return f"Pass --features {other}."
        adapter = f" --adapter {name_of(run)}" if is_tuned(run) and wanted.adapter is not None else ""
        tokens = f" --tokens {wanted.tokens}" if wanted.has_tokens else ""
        return f"Embed this data set in the same way, with --encoder {wanted.encoder}{adapter}{tokens}."

    if name not in there:
        advice = hint()
        if not advice.startswith("Pass"):
            advice = f"There are: {', '.join(there) or 'none yet'}. {advice}"
        raise InputError(f"{store.location}: no features {name!r}, which the run reads. {advice}")
    if differing := differences(run, wanted, store.features(name).spec):
        changes = "; ".join(f"{what}: {its!r} in the run, {here!r} here" for what, (its, here) in differing.items())
        raise SpecMismatch(
            f"{store.location}: {name} has another spec than the features that the head was fitted on ({changes}). "
            f"{hint()}"
        )
