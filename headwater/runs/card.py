"""The model card of a bundle, in Markdown with the header that the Hugging Face hub reads."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

from headwater._words import counted, cut, printable
from headwater.runs.bundle import Description

FIRST = ("auc", "auc_macro", "c_index", "r2", "mae", "accuracy", "balanced_accuracy", "f1_macro")
MOST, MOST_NAMES, LONGEST = 6, 20, 200  # metrics, names, and letters of a name
_MARKUP = re.compile(r"[\\`*_{}\[\]()#+!|~>-]")


def model_card(found: Description, name: str) -> str:
    """Return the card of a bundle that is called ``name``."""
    return "\n".join([*_header(found, name), "", *_body(found, name)]) + "\n"


def _header(found: Description, name: str) -> list[str]:
    lines = ["---", "library_name: headwater", "tags:", "- headwater", "- medical", f"- {found.task}", "model-index:"]
    lines += [
        f"- name: {_quoted(name)}",
        "  results:",
        "  - task:",
        f"      type: {_quoted(found.task)}",
        "    metrics:",
    ]
    for metric, (mean, _) in _performance(found).items():
        lines += [f"    - type: {_quoted(metric)}", f"      value: {mean:.4f}"]
    return [*lines, "---"]


def _quoted(words: str) -> str:
    """Return text as a string of YAML."""
    return json.dumps(_line(words))  # JSON is YAML


def _line(value: Any) -> str:
    """Return a value as words on one line, without characters that control a terminal or an editor."""
    return cut(printable(" ".join(str(value).split())), LONGEST)


def _words(value: Any) -> str:
    """Return a value as words in Markdown that are neither markup nor HTML."""
    return _MARKUP.sub(r"\\\g<0>", _line(value)).replace("&", "&amp;").replace("<", "&lt;")


def _performance(found: Description) -> dict[str, tuple[float, Any]]:
    """Return the mean and interval of the metrics that people ask for first."""
    mean, intervals = found.performance.get("mean") or {}, found.performance.get("intervals") or {}
    names = ("kappa_quadratic", "mae", "accuracy") if found.task == "ordinal" else FIRST
    known = {metric: (mean[metric], intervals.get(metric)) for metric in names if isinstance(mean.get(metric), float)}
    if known.get("auc_macro") == known.get("auc"):
        known.pop("auc_macro", None)
    return dict(list(known.items())[:MOST])


def _body(found: Description, name: str) -> list[str]:
    more = f" and {len(found.names) - MOST_NAMES:,} more" if len(found.names) > MOST_NAMES else ""
    names = ", ".join(map(_words, found.names[:MOST_NAMES])) + more
    inputs = ", ".join(map(_words, found.features))
    encoders = ", ".join(sorted({_words(spec.get("encoder")) for spec in found.features.values()}))
    file = _line(shlex.quote(name)).replace("`", "")
    out = [
        f"# {_words(name)}",
        "",
        f"A {found.head} head of [headwater](https://pypi.org/project/headwater/) that predicts {names} "
        f"({found.task}) from {inputs}, features of {encoders}.",
        "",
        "For research. It is not a medical device, and no decision about a patient should rest on it.",
        "",
        "## Use",
        "",
        "```bash",
        f"headwater predict {file} --verify",
        f"headwater predict {file} new_cases.csv --out predictions.csv",
        "```",
        "",
        *_needs(found),
        "",
        "## Performance",
        "",
        *_table(found),
        "",
        "## What is in this file",
        "",
        "The head, what turns its scores into decisions, the specification of the encoder"
        f"{', its weights' if found.encoders else ''}{', trained adapters' if found.adapters else ''}, made-up inputs "
        "to test that everything works, and, if there were at least ten groups, the mean and leading components of the "
        "training features, which tell how unlike these a new case is.",
        "",
    ]
    if found.cases:
        out.append(
            "It also holds the training cases as vectors, with their labels and digests of their images and texts, "
            "without ids: who has an image can find out whether it was among them."
        )
    else:
        out.append("It holds no training case, no id, no path, and no patient identifier.")
    return out


def _needs(found: Description) -> list[str]:
    if found.encoders:
        return ["The encoder's weights are in the file: no network is needed."]
    return [
        "The encoder is not in the file: it is loaded by its name, or with `--weights FILE`, and must be the very same."
    ]


def _table(found: Description) -> list[str]:
    rows = _performance(found)
    if not rows:
        return ["Not recorded."]
    n, folds = found.performance.get("n_samples"), found.performance.get("n_folds")
    how = "" if not isinstance(folds, int) else f", {counted(folds, 'fold')}"
    groups = f", groups by {_words(found.groups)} kept whole" if found.groups else ""
    out = [
        f"Cross-validated on {n:,} training rows{how}{groups}; this head was fitted on all of them."
        if isinstance(n, int)
        else ""
    ]
    out += ["", "| metric | mean | 95 % interval |", "|---|---|---|"]
    for metric, (mean, ends) in rows.items():
        interval = f"{ends[0]:.3f} to {ends[1]:.3f}" if isinstance(ends, list) and None not in ends else "–"
        out.append(f"| {metric} | {mean:.3f} | {interval} |")
    return out
