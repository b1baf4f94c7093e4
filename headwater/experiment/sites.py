"""How far features show where a sample comes from: its hospital, laboratory or scanner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headwater._devices import Device
from headwater._progress import Progress
from headwater._words import counted, indented
from headwater.errors import InputError, SplitError
from headwater.evaluate import cross_validate, make_splits
from headwater.evaluate.estimates import Ends, Estimates, Resampling, ends_of
from headwater.evaluate.intervals import LEVEL, mean_share_interval
from headwater.experiment.head import HeadChoice
from headwater.retrieve import exact
from headwater.runs.printed import interval_words, number_words

Codes = NDArray[np.int64]
K = 20
MOST_REFERENCES = 5000
FOLDS = 5
MOST_SITES = 200


@dataclass(frozen=True)
class SiteEffect:
    """What one feature set shows of the site.

    Attributes
    ----------
    features
        Its name.
    k
        Number of neighbours of each reference sample, from other groups.
    robustness
        The robustness index: of the neighbours with the same label from another site (SO) and those with another label
        from the same site (OS), the share of SO. 1 if the label decides who is near, 0 if the site does.
    interval
        Its confidence interval, by resampling groups.
    by_chance
        The index if neighbours were drawn at random from the other groups: it depends on how labels and sites go
        together. Compare the index with it.
    same_site, same_label
        Shares of neighbours from the same site, and with the same label.
    n_references
        Number of reference samples.
    probe
        ``balanced_accuracy`` and ``auc`` of a linear probe that predicts the site, cross-validated by group, with
        ``intervals``, and ``chance``, the balanced accuracy of a guess; None if it could not be made.
    why_no_probe
        Why not.

    References
    ----------
    Kömen, de Jong, Hense et al., Towards robust foundation models for digital pathology, arXiv 2507.17845, 2025 (the
    robustness index).
    """

    features: str
    k: int
    robustness: float | None
    interval: Ends
    by_chance: float | None
    same_site: float
    same_label: float
    n_references: int
    probe: dict[str, Any] | None
    why_no_probe: str = ""

    def lines(self, column: str, label: str) -> list[str]:
        """Return the result in a few lines."""
        low, high = self.interval or (None, None)
        rows = [
            [
                "robustness index",
                number_words(self.robustness),
                interval_words(low, high),
                f"by chance {number_words(self.by_chance)}",
            ],
            [f"neighbours of the same {column}", number_words(self.same_site), "", ""],
            [f"neighbours with the same {label}", number_words(self.same_label), "", ""],
        ]
        if self.probe is not None:
            for name, chance in (("balanced_accuracy", self.probe["chance"]), ("auc", 0.5)):
                low, high = self.probe["intervals"][name] or (None, None)
                rows.append(
                    [
                        f"linear probe for {column}, {name}",
                        number_words(self.probe[name]),
                        interval_words(low, high),
                        f"by chance {chance:.3f}",
                    ]
                )
        out = [f"{self.features}: {counted(self.n_references, 'sample')}, {self.k} neighbours each", *indented(rows)]
        return [*out, f"  no linear probe for {column}: {self.why_no_probe}"] if self.why_no_probe else out


def site_effect(
    name: str,
    X: Any,
    site: NDArray[Any],
    label: NDArray[Any],
    groups: NDArray[Any] | None,
    *,
    k: int = K,
    seed: int = 0,
    device: Device = "auto",
    say: Progress,
) -> SiteEffect:
    """Measure how far features show the site rather than the label.

    Parameters
    ----------
    name
        The feature set, for the result.
    X : float array-like of shape (n, dim)
        Features.
    site, label, groups : arrays of shape (n,)
        The site and the label of each sample, and its group, such as the patient; neighbours are taken from other
        groups. Without groups, only the sample itself is left out.
    k
        Number of neighbours.
    seed
        Of the reference samples, if there are more than 5,000, and of the folds.
    """
    sites, of_site = np.unique(site, return_inverse=True)
    _, of_label = np.unique(label, return_inverse=True)
    if groups is not None and all(len(np.unique(groups[of_site == s].astype(str))) == 1 for s in range(len(sites))):
        raise InputError(
            "--by with --groups: each site is one group, so no neighbour from another group is of the same site. Name "
            "a smaller unit with --groups, such as the patient."
        )
    group = np.arange(len(of_site)) if groups is None else np.unique(groups.astype(str), return_inverse=True)[1]
    usable = np.flatnonzero(np.isfinite(np.linalg.norm(np.asarray(X[:], np.float64), axis=1)))
    references = usable
    if len(usable) > MOST_REFERENCES:
        references = np.sort(np.random.default_rng(seed).choice(usable, MOST_REFERENCES, replace=False))
    say(f"{name}: neighbours of {counted(len(references), 'sample')}")
    k = min(k, len(usable) - 1)
    _, found = exact.search(
        X, np.asarray(X[references]), k, rows=usable, exclude=(group, group[references]), device=device
    )
    there = found >= 0
    same_site = (of_site[found] == of_site[references][:, None]) & there
    same_label = (of_label[found] == of_label[references][:, None]) & there
    for_label, for_site = same_label & ~same_site & there, same_site & ~same_label & there
    index, interval = _index(for_label, for_site, group[references])
    probe, why = _probe(X, sites, of_site, groups, seed, device, say)
    return SiteEffect(
        name,
        k,
        index,
        interval,
        _by_chance(of_site, of_label, group, references),
        float(same_site.sum() / there.sum()),
        float(same_label.sum() / there.sum()),
        len(references),
        probe,
        why,
    )


def require_sites(site: NDArray[Any], column: str) -> None:
    """Refuse a column that is no site: one value, or too many."""
    n = len(np.unique(site))
    if not 2 <= n <= MOST_SITES:
        raise InputError(f"--by {column} has {counted(n, 'value')}, but needs 2 to {MOST_SITES}, such as hospitals.")


def counts_by_site(site: NDArray[Any], label: NDArray[Any]) -> list[dict[str, Any]]:
    """Return the number of samples of each label at each site."""
    labels = sorted(set(label.astype(str).tolist()))
    return [
        {"site": one, "labels": {name: int(((site == one) & (label.astype(str) == name)).sum()) for name in labels}}
        for one in sorted(set(site.tolist()))
    ]


def _index(for_label: NDArray[np.bool_], for_site: NDArray[np.bool_], groups: Codes) -> tuple[float | None, Ends]:
    """Return the share of the first among both, with its interval by groups of references."""
    rows, _ = np.nonzero(for_label | for_site)
    if not len(rows):
        return None, None
    right = for_label[for_label | for_site]
    codes = np.unique(groups[rows], return_inverse=True)[1]
    ends = mean_share_interval(right, np.ones(len(right), bool), codes, [np.arange(len(right))], LEVEL)
    return float(right.mean()), ends_of(ends)


def _by_chance(of_site: Codes, of_label: Codes, group: Codes, references: Codes) -> float | None:
    """Return the index of neighbours that are drawn at random from other groups."""
    n_sites, n_labels = of_site.max() + 1, of_label.max() + 1
    cell = of_site * n_labels + of_label
    counts = np.bincount(cell, minlength=n_sites * n_labels).reshape(n_sites, n_labels).astype(np.float64)
    n_so = n_os = 0.0
    of_group: dict[int, Codes] = {}
    for row in references.tolist():
        own = of_group.setdefault(int(group[row]), np.flatnonzero(group == group[row]))
        s, c = of_site[row], of_label[row]
        mine = (of_site[own] == s, of_label[own] == c)
        so = counts[:, c].sum() - counts[s, c] - (~mine[0] & mine[1]).sum()
        os = counts[s].sum() - counts[s, c] - (mine[0] & ~mine[1]).sum()
        n_others = len(group) - len(own)
        n_so, n_os = n_so + so / max(n_others, 1), n_os + os / max(n_others, 1)
    return n_so / (n_so + n_os) if n_so + n_os > 0 else None


def _probe(
    X: Any,
    sites: NDArray[Any],
    of_site: Codes,
    groups: NDArray[Any] | None,
    seed: int,
    device: Device,
    say: Progress,
) -> tuple[dict[str, Any] | None, str]:
    """Return the cross-validated results of a linear probe that predicts the site, or why there are none."""
    chosen = HeadChoice("linear", {}, {}, device=device)
    try:
        splits = make_splits(of_site, groups=groups, n_folds=FOLDS, seed=seed)
        outcome = cross_validate(
            chosen.head(seed), X, of_site, splits, grid=chosen.searches(seed), groups=groups, seed=seed, progress=say
        )
    except (InputError, SplitError) as error:
        return None, str(error)
    several = len(sites) > 2
    names = {"balanced_accuracy": "balanced_accuracy", "auc": "auc"}
    if several and outcome.mean["auc"] is None:
        names = {"balanced_accuracy": "balanced_accuracy_present", "auc": "auc_present"}
    intervals = Estimates(outcome, of_site, Resampling.of(len(of_site), groups)).metrics()
    values: dict[str, Any] = {name: outcome.mean[metric] for name, metric in names.items()}
    found = {**values, "chance": 1 / len(sites), "intervals": {name: intervals[m] for name, m in names.items()}}
    return found, ""


def site_table(found: Sequence[dict[str, Any]], column: str) -> list[str]:
    """Make a table of the labels at each site."""
    labels = list(found[0]["labels"])
    rows = [[column, *labels], *([str(one["site"]), *(f"{one['labels'][name]:,}" for name in labels)] for one in found)]
    return indented(rows)
