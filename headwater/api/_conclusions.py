"""Conclusions of a comparison in words, for readers who did not make it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from headwater.api.compare import Compared, Difference, divided_words, outcome_of
from headwater.report.html.about import inputs_words
from headwater.report.html.words import metric_inside, number, p_value, span


def named(found: Compared, names: Sequence[str]) -> Compared:
    """Return a comparison whose runs have other names, in the same order."""
    called = dict(zip(found.runs, names, strict=True))
    differences = [
        replace(d, first=called[d.first], second=called[d.second], divided=called.get(d.divided or ""))
        for d in found.differences
    ]
    notes = list(found.notes)
    for old, new in called.items():
        notes = [f"{new}:{note.removeprefix(f'{old}:')}" if note.startswith(f"{old}:") else note for note in notes]
    runs = {called[name]: values for name, values in found.runs.items()}
    return replace(found, runs=runs, differences=differences, notes=notes)


def conclusion(d: Difference, found: Compared, configs: Mapping[str, Mapping[str, Any]]) -> tuple[str, str]:
    """Return a conclusion about two runs: a title, and a line of numbers.

    Parameters
    ----------
    d
        The difference.
    found
        The comparison that it is of.
    configs
        ``config.json`` of each run by its name.

    Examples
    --------
    >>> d = Difference("notes", "both", 0.03, -0.04, 0.1, "corrected_t", {"corrected_t": 0.37}, {}, None)
    >>> found = Compared("auc", 0.95, 2000, "group", 276, {}, [d], None, None, [])
    >>> made = {"command": "fit-head", "head": "linear", "label": ["covid"]}
    >>> notes = {**made, "features": {"ngram/text": {}}}
    >>> both = {**made, "features": {"ngram/text": {}, "cnn/image": {}}}
    >>> title, numbers = conclusion(d, found, {"notes": notes, "both": both})
    >>> title
    'Adding the image to the text did not clearly help'
    >>> numbers
    'AUC −0.030, 95 % interval −0.100 to +0.040, p 0.37 (both minus notes)'
    """
    word, share = metric_inside(found.metric), f"{100 * found.level:g} %"
    outcome = outcome_of(d, found.metric)
    added = _added(configs[d.first], configs[d.second])
    if added is not None and not added[1]:  # the second run has more
        d = replace(d, first=d.second, second=d.first, difference=-d.difference, low=-d.high, high=-d.low)
        outcome = {"better": "worse", "worse": "better"}.get(outcome, outcome)  # type: ignore[assignment]
    p, least = d.p.get(d.test), d.least_p.get(d.test)
    numbers = f"{word} {number(d.difference, '+')}, {share} interval {span(d.low, d.high, '+')}, p {p_value(p, least)}"
    if d.p_holm is not None and not np.isnan(d.p_holm):
        numbers += f", corrected for the number of pairs {p_value(d.p_holm)}"
    numbers += f" ({d.first} minus {d.second})"
    if d.divided is not None:
        numbers += f", {divided_words(d.divided)}"
    if outcome == "undefined":
        return f"{d.first} and {d.second} cannot be compared", f"{word} is not defined"
    if added is not None:
        how = {"better": "helped", "worse": "made it worse"}.get(outcome, "did not clearly help")
        return f"{added[0]} {how}", numbers
    title = {
        "better": f"{d.first} is better than {d.second}",
        "worse": f"{d.first} is worse than {d.second}",
        "differ": f"{d.first} and {d.second} differ",
        "alike": f"{d.first} and {d.second} do not clearly differ",
        "corrected": f"No clear difference between {d.first} and {d.second} after correction for the number of pairs",
    }
    return title.get(outcome, f"No clear difference between {d.first} and {d.second}"), numbers


def _added(first: Mapping[str, Any], second: Mapping[str, Any]) -> tuple[str, bool] | None:
    """Return what one of two runs adds to the other's inputs, and whether the first has more; None for neither."""
    if any(first.get(key) != second.get(key) for key in ("command", "head", "label", "bags", "views")):
        return None
    one, other = (list(config.get("features") or ()) for config in (first, second))
    if not one or not other or set(one) == set(other):
        return None
    for fewer, more, has_more in ((other, one, True), (one, other, False)):
        if set(fewer) < set(more):
            extra = [name for name in more if name not in fewer]
            together = inputs_words([*extra, *fewer])
            plain = inputs_words(extra), inputs_words(fewer)
            if together.count(plain[0]) != 1 or plain[0] == plain[1]:
                plain = " and ".join(extra), " and ".join(fewer)
            return f"Adding {plain[0]} to {plain[1]}", has_more
    return None
