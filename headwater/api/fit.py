"""fit-head: from stored features to a run directory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from headwater.evaluate.aggregate import How
from headwater.evaluate.calibration import Method
from headwater.evaluate.labelling import Labelling
from headwater.evaluate.options import Asked, Protocol
from headwater.experiment.fit import DEFAULT_HEAD, Fitting
from headwater.experiment.head import Chosen
from headwater.runs.run import Run
from headwater.runs.write import run_folder
from headwater.samples.inputs import Missing
from headwater.samples.label_names import mapping_of
from headwater.store import Store, open_store


def fit_head(
    store: str | Path | Store,
    *,
    features: str | Sequence[str],
    label: str | Sequence[str],
    head: str | None = None,
    task: Asked = "auto",
    params: Mapping[str, Any] | None = None,
    prompts: str | Path | None = None,
    groups: str | None = None,
    folds: int | None = None,
    split: str | None = None,
    holdout: float | None = None,
    where: str | None = None,
    by: str | None = None,
    seed: int = 0,
    seeds: int = 1,
    inner_folds: int = 4,
    bags: str | None = None,
    views: str | None = None,
    missing: Missing = "drop",
    shots: int | None = None,
    draws: int | None = None,
    calibrate: Method | None = None,
    sensitivity: float | None = None,
    specificity: float | None = None,
    conformal: float | None = None,
    conformal_per_class: bool = False,
    per: str | None = None,
    aggregate: How | None = None,
    label_separator: str | None = None,
    merge: Mapping[str, str | None] | str | Path | None = None,
    missing_values: str | Sequence[str] | None = None,
    positive: str | None = None,
    allow_leakage: str | None = None,
    samples_with: str | Sequence[str] = (),
    trials: int | None = None,
    fine: bool = False,
    controls: bool = False,
    out: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> Run:
    """Fit a head on stored features and evaluate it, parameters being selected inside the training rows of each fold.

    Parameters
    ----------
    store
        A store, or where it is.
    features
        One or more feature sets, ``NAME/MODALITY``; several are put side by side, or fused as the head does it. Heads
        over tokens read tokens, and the pooled feature as one token of ``NAME/MODALITY:pooled``.
    label
        The column to predict; several columns of 0 and 1, or one column of lists, make a multi-label task.
    head
        Kind of head; ``linear``, or ``ridge`` for regression, when left out.
    task
        ``"auto"``, for which labels are classes, or ``"regression"``, for which they are numbers: one column of them,
        or several, which are predicted together.
    params
        Parameters of the head. A list of values, for a parameter that is no list itself, is searched; the head's own
        grid is searched too, unless it has a parameter that is given here.
    prompts
        A TOML file of what describes each class, for heads that weigh images against texts, such as ``tip-adapter``;
        see `headwater.heads.read_prompts`. Prompts that the store lacks are embedded, and stay there.
    groups
        The column whose values must not be divided between training and test, such as the patient; ``"none"`` to
        say that rows are independent.
    folds, split, holdout
        How to split, one of them: that many folds; by a column; or one share of the rows. Five folds by default.
    where
        A boolean SQL expression over the manifest's columns: only these samples are used.
    by
        A column: results are also given for each of its values.
    seed
        Of the splits, of draws, and of a head that draws itself.
    seeds
        How often all of it is repeated, with seeds from `seed` on. The head is that of the first.
    inner_folds
        Folds of the training rows in which parameters are selected.
    bags
        For multiple-instance learning: the column whose values make one bag of the samples that share them, such as the
        slide. A row is then a bag, and each bag has one label. With `views`, what the views are of, such as the exam.
    views
        The column that says which view, or magnification, a sample is: a row is then a case, the samples that share a
        value of `bags`, and each view of its images is an input of its own, ``VIEW:NAME/image``. A case has one image a
        view and one text; one that lacks a view is left out, or kept as `missing` says.
    missing
        ``"drop"`` leaves out samples that lack one of the features; ``"keep"`` keeps them, for heads over the tokens of
        several inputs.
    shots
        Train on that many rows of each class alone, drawn from the training rows of each fold, from as many groups as
        there are. The head that is saved is fitted on one such draw of all rows.
    draws
        How often to draw them.
    calibrate
        Calibrate scores by ``"temperature"`` or ``"isotonic"``, fitted to out-of-fold scores of the training rows.
    sensitivity, specificity
        One of them: report what a threshold gives that was chosen to reach it on out-of-fold scores of the training
        rows. Which class is positive has to be certain: from `positive`, or from the classes' names.
    conformal
        Make prediction sets that miss the true class at most in this share of the samples, such as 0.1.
    conformal_per_class
        Whether that is to hold for each class by itself.
    per, aggregate
        A column of what samples belong to, such as the exam, and how their scores make one of it: ``"mean"`` (the
        default), ``"max"`` or ``"noisy-or"``. Everything is reported at that level too.
    label_separator
        Splits the label column's text into several labels, such as ``";"``.
    merge
        Labels that mean the same, brought to one name: ``{"adenoca.": "adenocarcinoma"}``, or a file of such, a table
        with the columns ``from`` and ``to``, or TOML. None or ``""`` leaves samples with that label out (of several
        labels, that label).
    missing_values
        Words that are missing values, in any case of letters, in labels, groups, ``by`` and ``per``: a list, or one
        text with commas. ``NA``, ``N/A``, ``NaN`` and ``null`` when left out; with an empty list only empty cells are
        missing. A column of ids, sites or countries has none of the words, unless it is the label. A sample without a
        label is left out and counted.
    positive
        The positive class of two: that of sensitivity, precision and recall. When left out, the names decide (1 of 0
        and 1, yes, true, positive, malignant, case, what is not normal), or else the class that sorts last is taken,
        and said.
    allow_leakage
        Why it is no matter that the same images, near duplicates of them, or samples of one group are on both sides of
        a split, which is refused otherwise. Kept in ``metrics.json``.
    samples_with
        Feature sets that a sample must have too, so that runs on other features are about the same samples.
    trials
        Select among that many settings, proposed by Optuna in the head's search space, instead of a grid.
    fine
        After the head's grid of penalties, try 12 more around the best: for a head of one penalty, such as ``linear``.
    controls
        Evaluate too, on the same splits: each input alone, inputs that are shuffled so that they no longer go together,
        and random numbers in their place.
    out
        The run directory to write; none is written when left out.
    progress
        Called with a line about each step.

    Returns
    -------
    Run

    Raises
    ------
    InputError, SplitError, HeadError, StoreError
        Each with one line that says what, where and what to do.
    """
    target = run_folder(out)
    fitting = Fitting(
        features=_several(features),
        labels=_several(label),
        label_separator=label_separator,
        merge=mapping_of(merge, "--merge"),
        params=dict(params or {}),
        chosen=Chosen.of(
            head or DEFAULT_HEAD[task == "regression"], params or {}, trials, fine=fine, regression=task == "regression"
        ),
        protocol=Protocol(
            task=task,
            groups=groups,
            folds=folds,
            split=split,
            holdout=holdout,
            by=by,
            seed=seed,
            seeds=seeds,
            inner_folds=inner_folds,
            shots=shots,
            draws=draws,
            calibrate=calibrate,
            sensitivity=sensitivity,
            specificity=specificity,
            conformal=conformal,
            conformal_per_class=conformal_per_class,
            per=per,
            aggregate=aggregate,
            labelling=Labelling.of(missing_values, positive),
        ),
        where=where,
        bags=bags,
        views=views,
        missing=missing,
        samples_with=_several(samples_with),
        controls=controls,
        allow_leakage=allow_leakage,
        prompts=prompts,
    )
    fitting.refuse()
    opened = store if isinstance(store, Store) else open_store(store)
    return fitting.on(opened).run(target, progress or (lambda line: None))


def _several(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(dict.fromkeys(names))
