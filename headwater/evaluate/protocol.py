"""Nested cross-validation: parameters are selected inside the training rows, and heads evaluated on test rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from headwater._memory import keep_freed_memory
from headwater._survival import as_survival
from headwater.errors import HeadError
from headwater.evaluate._labels import counted
from headwater.evaluate.halving import Halving, Rung, Scored, rungs
from headwater.evaluate.measured import WITHOUT_CLASSES
from headwater.evaluate.metrics import Task, infer_task, log_loss_many, score
from headwater.evaluate.outcome import Fold, Outcome, OutOfFold
from headwater.evaluate.regression import as_outputs, squared_errors
from headwater.evaluate.search import Grid, Searches, Trial, best_of
from headwater.evaluate.splits import Split, inner_splits
from headwater.evaluate.survival import cross_validated_losses

Rows = NDArray[np.int64]
Params = Mapping[str, Any]
Floats = NDArray[np.floating[Any]]
_LEAST = 1e-15
FITS_AT_ONCE = 1024  # most heads, with their scores, held in memory while selecting
FITS_PAUSED = 64  # the same for heads in training, with the moments of their gradients; or those of one outer split


class Head(Protocol):
    """The interface of a head; classifiers also have ``predict_proba_many``, regressors ``predict_many``."""

    seeds_together: ClassVar[bool]
    pausable: ClassVar[bool]

    def fit_many(
        self, X: Any, y: NDArray[Any], fits: Sequence[tuple[Rows, Params]], *, groups: NDArray[Any] | None
    ) -> list[Any]: ...

    def race(
        self,
        X: Any,
        y: NDArray[Any],
        fits: Sequence[tuple[Rows, Params]],
        tests: Sequence[Rows],
        judge: Any,
        *,
        groups: NDArray[Any] | None,
    ) -> Sequence[Scored]: ...


@dataclass(frozen=True, eq=False)
class Repeat:
    """One repetition of cross-validation, with its own splits and seed.

    Attributes
    ----------
    splits
        The outer splits, from `make_splits`.
    grid
        As `cross_validate` takes it.
    seed
        Seed of the inner folds.
    params
        The head's parameters in this repeat, such as its seed.
    """

    splits: Sequence[Split]
    grid: Sequence[Params] | Searches = ({},)
    seed: int = 0
    params: Params = field(default_factory=dict)

    @property
    def searches(self) -> Searches:
        """The source of searches."""
        return Grid(list(self.grid)) if isinstance(self.grid, Sequence) else self.grid


def cross_validate(
    head: Head,
    X: Any,
    y: NDArray[Any],
    splits: Sequence[Split],
    *,
    grid: Sequence[Params] | Searches = ({},),
    groups: NDArray[Any] | None = None,
    n_inner_folds: int = 4,
    seed: int = 0,
    final: Rows | None = None,
    out_of_fold: bool = False,
    regression: bool = False,
    halving: bool = True,
    survival: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Outcome:
    """Select parameters, fit heads and evaluate them, fold by fold; fits are solved together where possible.

    In each fold, the parameters with the lowest log loss (for regression squared error, for survival
    minus the cross-validated partial likelihood) over ``n_inner_folds`` inner
    folds of its training rows are selected; for ties, the earlier. A head with them is fitted on all its training rows,
    and scores the test rows once.

    Parameters
    ----------
    head
        An unfitted head.
    X
        Features, an array-like of ``n_samples`` rows, or a dict of them.
    y
        Labels, of shape ``(n_samples,)`` or 0/1 ``(n_samples, n_labels)``; for regression numbers, of shape
        ``(n_samples,)`` or ``(n_samples, n_outputs)``.
    splits
        The outer splits, from `make_splits`.
    grid
        Parameters to select from; with one entry nothing is selected. Or a source of searches: each outer split has its
        own search, which sees only losses on inner folds of that split's training rows.
    groups
        Groups that inner folds keep whole, of shape ``(n_samples,)``.
    n_inner_folds
        Number of inner folds; fewer if the training rows have fewer groups.
    seed
        Seed of the inner folds.
    final : int64 array, optional
        The rows to fit the head for new cases on. Default: all rows.
    out_of_fold
        Make inner folds even if there is nothing to select, for out-of-fold scores of training rows.
    regression
        Whether labels are numbers to predict, rather than classes.
    halving
        Drop the worse half of a grid's settings at set epochs, by their loss on the inner folds until then, if the
        head is trained in epochs; see `headwater.evaluate.halving`. Searches that propose settings drop none.
    survival
        Whether labels are times and events, of shape ``(n_samples, 2)``.
    progress
        Called with a line about each step.

    Raises
    ------
    SplitError
        When the training rows of a fold cannot be split further to select parameters.
    """
    return cross_validate_repeats(
        head,
        X,
        y,
        [Repeat(splits, grid, seed)],
        groups=groups,
        n_inner_folds=n_inner_folds,
        final=final,
        out_of_fold=out_of_fold,
        regression=regression,
        halving=halving,
        survival=survival,
        progress=progress,
    )


def cross_validate_repeats(
    head: Head,
    X: Any,
    y: NDArray[Any],
    repeats: Sequence[Repeat],
    *,
    groups: NDArray[Any] | None = None,
    n_inner_folds: int = 4,
    final: Rows | None = None,
    out_of_fold: bool = False,
    regression: bool = False,
    halving: bool = True,
    survival: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Outcome:
    """Run `cross_validate` several times with different draws, all repeats at once if that is faster for the head.

    The outcome has the folds of all repeats; the head for new cases is the first repeat's. Parameters are those of
    `cross_validate`.
    """
    say = progress or (lambda line: None)
    target = _Target.of(y, regression, survival)
    task, classes = target.task, target.classes
    rows = np.arange(len(y)) if final is None else final
    first = repeats[0]
    everything = Split(len(first.splits), rows, np.arange(0))
    alone = not head.seeds_together  # then every repeat solves the same set of fits, so that results stay identical
    outer = [
        _Outer(split, i, repeat, repeat.searches)
        for repeat in repeats
        for i, split in enumerate([*repeat.splits, everything] if repeat is first or alone else repeat.splits)
    ]
    n_settings = outer[0].searches.n_trials
    selects = n_settings > 1
    halves = halving and head.pausable and isinstance(outer[0].searches, Grid)
    drops = rungs(n_settings) if halves else []
    with keep_freed_memory() if head.pausable else nullcontext():  # networks come and go, those of all steps alike
        if selects or out_of_fold:
            inner = [_inner(one.split, target, groups, n_inner_folds, one.repeat.seed) for one in outer]
            n_fits = sum(map(len, inner)) * n_settings
            what = f"selecting among {n_settings} settings" if selects else "scoring training rows out of fold"
            say(f"{what}: {n_fits} fits")
            chosen = []
            most = FITS_PAUSED if head.pausable else FITS_AT_ONCE
            for part in _parts(outer, [len(folds) * n_settings for folds in inner], head.seeds_together, most):
                chosen += _select(head, X, target, outer[part], inner[part], groups, drops)
        else:
            chosen = [_Selected(next(iter(one.searches.start(one.number).ask())), None, ()) for one in outer]
        say(f"fitting {len(outer)} heads")
        fits = [
            (one.split.train, {**one.repeat.params, **found.params}) for one, found in zip(outer, chosen, strict=True)
        ]
        fitted = []
        for part in _parts(outer, [0] * len(outer), head.seeds_together, FITS_AT_ONCE):
            fitted += head.fit_many(X, y, fits[part], groups=groups)
    place = len(first.splits)
    last, last_head = chosen[place], fitted[place]
    chosen = [found for one, found in zip(outer, chosen, strict=True) if one.split is not everything]
    fitted = [model for one, model in zip(outer, fitted, strict=True) if one.split is not everything]
    splits = [split for repeat in repeats for split in repeat.splits]
    tested = target.scores(head, fitted, X, [split.test for split in splits])
    folds = []
    for split, found, model, predicted in zip(splits, chosen, fitted, tested, strict=True):
        scores = predicted.astype(np.float64)
        metrics = score(task, y[split.test], scores, classes=classes)
        folds.append(Fold(split, found.params, scores, metrics, found.inside, found.trials, model))
    on = "all samples" if final is None else f"{counted(len(rows), 'row')}, drawn as in a fold"
    selection = {
        "by": target.loss if selects else None,
        "rows": "inner folds of each fold's own training rows" if selects else None,
        "inner_folds": n_inner_folds if selects else None,
        "grouped": groups is not None,
        **({"halving": _described(drops)} if selects and head.pausable else {}),
        **first.searches.to_dict(),
        "final_params": dict(last.params),
        "final_params_rows": f"inner folds of {on}" if selects else None,
        "saved_head": f"fitted on {on}; no reported metric is for this head",
    }
    return Outcome(task, classes, folds, last_head, last.params, selection, last.inside, last.trials)


class _Outer(NamedTuple):
    """An outer split, its number within its repeat, and the source of its search."""

    split: Split
    number: int
    repeat: Repeat
    searches: Searches


def _described(drops: Sequence[Rung]) -> dict[str, Any] | None:
    """Describe where settings are dropped, as plain JSON values; None if none are."""
    if not drops:
        return None
    return {
        "by": "loss on the test rows of the inner folds, by the best parameters until then, less half of its last fall",
        "at": [{"share_of_epochs_after_warmup": rung.share, "settings_kept": rung.kept} for rung in drops],
        "kept_if_close": "up to two thirds, within two standard errors of the best, except at the last",
    }


def _parts(outer: Sequence[_Outer], n_fits: Sequence[int], together: bool, most: int) -> list[slice]:
    """Divide outer splits into batches of fits that fit into memory; a batch may span repeats if ``together``.

    Otherwise each repeat gives bit-identical results to the repeat run alone.
    """
    parts, start = [], 0
    for i in range(1, len(outer)):
        other = outer[i].repeat is not outer[start].repeat and not together
        if other or sum(n_fits[start : i + 1]) > most:
            parts.append(slice(start, i))
            start = i
    return [*parts, slice(start, len(outer))]


def align(probabilities: Floats, known: NDArray[Any], classes: NDArray[Any]) -> Floats:
    """Return probabilities with a column for each of ``classes``, 0 for classes that the head was not trained on."""
    if len(known) == len(classes):
        return probabilities
    out = np.zeros((len(probabilities), len(classes)), probabilities.dtype)
    out[:, np.searchsorted(classes, known)] = probabilities
    return out


@dataclass(frozen=True, eq=False)
class _Target:
    """The labels to predict, and the loss of predictions.

    Attributes
    ----------
    y
        Labels as given.
    codes
        Class numbers ``(n,)``, 0/1 ``(n, n_labels)``, numbers ``(n, n_outputs)``, or times and events ``(n, 2)``.
    """

    task: Task
    y: NDArray[Any]
    classes: NDArray[Any]
    codes: NDArray[Any]

    @classmethod
    def of(cls, y: NDArray[Any], regression: bool, survival: bool = False) -> _Target:
        if survival:
            return cls("survival", y, np.arange(1), as_survival(y))
        if regression:
            outputs = as_outputs(y)
            return cls("regression", y, np.arange(outputs.shape[1]), outputs)
        task = infer_task(y)
        if task == "multilabel":
            return cls(task, y, np.arange(y.shape[1]), y)
        return cls(task, y, *np.unique(y, return_inverse=True))

    @property
    def loss(self) -> str:
        if self.task == "survival":
            return "minus the cross-validated log partial likelihood, per row"
        if self.task != "regression":
            return "log_loss"
        return "mean_squared_error" if len(self.classes) == 1 else "mean_squared_error of outputs of variance 1"

    def scores(self, head: Any, heads: Sequence[Any], X: Any, rows: Sequence[Rows]) -> list[Floats]:
        """Return each head's scores of its rows, with a column for each class or output."""
        if self.task in WITHOUT_CLASSES:
            return [found.reshape(len(found), -1) for found in head.predict_many(heads, X, rows)]
        found = head.predict_proba_many(heads, X, rows)
        return [align(p, h.classes_, self.classes) for p, h in zip(found, heads, strict=True)]

    def aligned(self, scored: Scored) -> Floats:
        """Return the scores of a fit in progress, with a column for each class or output."""
        if self.task in WITHOUT_CLASSES:
            return scored.scores
        return align(scored.scores, scored.classes_, self.classes)

    def inner_losses(self, folds: Sequence[_Inner], scores: Sequence[Sequence[Floats]]) -> NDArray[np.float64]:
        """Return the mean loss of each setting over the test rows of all inner folds, from each fold's scores."""
        weights = [len(fold.test) for fold in folds]
        return np.asarray(np.average(self.fold_losses(folds, scores), axis=0, weights=weights))

    def fold_losses(self, folds: Sequence[_Inner], scores: Sequence[Sequence[Floats]]) -> NDArray[np.float64]:
        """Return the mean loss of each inner fold and setting, of shape ``(n_folds, n_settings)``."""
        within = np.concatenate([fold.test for fold in folds])
        return np.stack([self.losses(fold, np.stack(p), within) for fold, p in zip(folds, scores, strict=True)])

    def losses(self, fold: _Inner, scores: Floats, within: Rows) -> NDArray[np.float64]:
        """Return the mean loss of each model on an inner fold, with scores of shape ``(n_models, n, n_classes)``.

        With several outputs, the error of each is divided by its variance on the rows ``within``.
        """
        rows, n_test = fold.scored, len(fold.test)
        if self.task == "survival":
            tested, trained = np.arange(n_test), np.arange(n_test, len(rows))
            return cross_validated_losses(self.codes[rows], scores[:, :, 0].astype(np.float64), trained, tested)
        if self.task != "regression":
            return _log_losses(self.codes[rows], scores)
        return squared_errors(self.codes[rows], scores, self.codes[within].var(0))


class _Inner(NamedTuple):
    """Training and test rows of an inner fold, as row numbers of the table, and the rows that its heads score.

    These are the test rows; for survival the training rows follow, since the loss needs them too.
    """

    train: Rows
    test: Rows
    scored: Rows


def _inner(split: Split, target: _Target, groups: NDArray[Any] | None, n_inner_folds: int, seed: int) -> list[_Inner]:
    """Divide the training rows of a split into inner folds."""
    inside = None if groups is None else groups[split.train]
    regression, survival = target.task == "regression", target.task == "survival"
    y = target.codes if survival else target.y
    found = inner_splits(y[split.train], inside, n_inner_folds, seed, regression=regression, survival=survival)
    folds = [(split.train[inner.train], split.train[inner.test]) for inner in found]
    return [_Inner(train, test, np.concatenate([test, train]) if survival else test) for train, test in folds]


class _Selected(NamedTuple):
    """The parameters selected inside the training rows of a split, with out-of-fold scores and trials."""

    params: Params
    inside: OutOfFold | None
    trials: Sequence[Trial]


def _select(
    head: Head,
    X: Any,
    target: _Target,
    splits: Sequence[_Outer],
    outer: Sequence[Sequence[_Inner]],
    groups: NDArray[Any] | None,
    drops: Sequence[Rung],
) -> list[_Selected]:
    """Return, for each outer split, the best setting over its inner folds, and its out-of-fold scores.

    The best setting has the lowest loss over the rows of all inner folds, among those that were not dropped on the way.
    The settings of all searches are fitted together.
    """
    running = [one.searches.start(one.number) for one in splits]
    own = [one.repeat.params for one in splits]
    tried: list[list[Trial]] = [[] for _ in outer]
    best: list[list[Floats] | None] = [None] * len(outer)  # scores of each inner fold for the best setting so far
    while any(asked := [search.ask() for search in running]):
        work = [
            (fold, {**params_of_repeat, **params})
            for folds, here, params_of_repeat in zip(outer, asked, own, strict=True)
            for fold in folds
            for params in here
        ]
        scored = iter(_scored(head, X, target, outer, work, [len(here) for here in asked], groups, drops))
        for i, (folds, here) in enumerate(zip(outer, asked, strict=True)):
            of_fold = [[next(scored) for _ in here] for _ in folds]
            losses = target.inner_losses(folds, [[one.scores for one in settings] for settings in of_fold])
            dropped = [one.epoch if one.dropped else None for one in of_fold[0]]
            least = getattr(best_of(tried[i]), "loss", np.inf)
            place = int(np.argmin(np.where([epoch is None for epoch in dropped], losses, np.inf)))
            if losses[place] < least and dropped[place] is None:
                best[i] = [at[place].scores[: len(f.test)] for f, at in zip(folds, of_fold, strict=True)]
            running[i].tell(losses.tolist())
            tried[i] += [
                Trial(params, float(loss), epoch) for params, loss, epoch in zip(here, losses, dropped, strict=True)
            ]
    return [_selected(*of_split) for of_split in zip(outer, tried, best, strict=True)]


class _Score(NamedTuple):
    """Scores of test rows, with a column for each class or output; and where the fit was dropped, if it was."""

    scores: Floats
    epoch: int = 0
    dropped: bool = False


def _scored(
    head: Head,
    X: Any,
    target: _Target,
    outer: Sequence[Sequence[_Inner]],
    work: Sequence[tuple[_Inner, Params]],
    n_settings: Sequence[int],
    groups: NDArray[Any] | None,
    drops: Sequence[Rung],
) -> list[_Score]:
    """Fit each setting on each inner fold, and score the fold's test rows."""
    fits, tests = [(fold.train, params) for fold, params in work], [fold.scored for fold, _ in work]
    if not head.pausable:
        return list(map(_Score, target.scores(head, head.fit_many(X, target.y, fits, groups=groups), X, tests)))
    places = [(i, f, s) for i, folds in enumerate(outer) for f in range(len(folds)) for s in range(n_settings[i])]

    def losses_of(search: int, of_fold: list[list[Scored]]) -> NDArray[np.float64]:
        return target.fold_losses(outer[search], [[target.aligned(one) for one in fits] for fits in of_fold])

    judge = Halving(drops, places, losses_of, [[len(fold.test) for fold in folds] for folds in outer])
    found = head.race(X, target.y, fits, tests, judge, groups=groups)
    return [_Score(target.aligned(one), one.epoch, one.dropped) for one in found]


def _selected(folds: Sequence[_Inner], trials: Sequence[Trial], scores: Sequence[Floats] | None) -> _Selected:
    best = best_of(trials)
    if scores is None or best is None:
        raise HeadError("no setting of the grid gives finite scores on the inner folds.")
    inside = OutOfFold(
        rows=np.concatenate([fold.test for fold in folds]),
        fold=np.repeat(np.arange(len(folds)), [len(fold.test) for fold in folds]),
        scores=np.concatenate(scores).astype(np.float64),
    )
    return _Selected(best.params, inside, trials)


def _log_losses(codes: NDArray[Any], probabilities: Floats) -> NDArray[np.float64]:
    """Return the mean log loss of each model over rows and labels, of shape ``(n_models,)``."""
    if codes.ndim == 1:
        return log_loss_many(codes, probabilities)
    p = np.clip(probabilities, _LEAST, 1 - _LEAST)
    losses: NDArray[np.float64] = -np.where(codes > 0, np.log(p), np.log1p(-p)).mean((1, 2))
    return np.where(np.isnan(losses), np.inf, losses)  # argmin would choose NaN
