"""What a run's files say for the items of a checklist: each fact with the value, its file and its key."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headwater._words import counted
from headwater.evaluate.bootstrap import default_metric
from headwater.report.html.about import HEADS, place_name, preprocessing_words
from headwater.report.html.material import Material, Subject
from headwater.report.html.mistakes import worst
from headwater.report.html.numbers import confusion_counts
from headwater.report.html.words import (
    HEADLINE,
    TILES,
    ends,
    groups_words,
    listed,
    metric_inside,
    metric_name,
    number,
    one_group,
    p_value,
    percent,
    span,
)

FEW = 12


@dataclass(frozen=True)
class Fact:
    """A fact in words, and the file and key that it came from."""

    text: str
    source: str


def main(material: Material) -> Subject:
    """Return the run that a checklist is about: the first, if possible one that was fitted."""
    return (material.inner or list(material.subjects))[0]


def _of(one: Subject, material: Material, file: str, key: str) -> str:
    several = len(material.subjects) > 1
    return f"{one.name}, {file}: {key}" if several else f"{file}: {key}"


def _plain(value: Any) -> str:
    if value is None:
        return "not given"
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:.4g}"
    return json.dumps(value, ensure_ascii=False)


def _config(material: Material, keys: Mapping[str, str], one: Subject | None = None) -> list[Fact]:
    """Return options of a run that were given, by what they mean."""
    one = one or main(material)
    out = []
    for key, words in keys.items():
        value = one.config.get(key)
        if value not in (None, [], {}, False):
            out.append(Fact(f"{words}: {_plain(value)}", _of(one, material, "config.json", key)))
    return out


def sources(material: Material) -> list[Fact]:
    """Return where the data came from."""
    one = main(material)
    key = "store" if one.config.get("store") else "manifest"
    out = [Fact(f"Store or manifest: {place_name(one.config.get(key))}", _of(one, material, "config.json", key))]
    if flow_ := one.metrics.get("flow"):
        n = flow_["listed"]
        words = counted(n["samples"], "sample")
        words += "" if n["groups"] is None else f" of {groups_words(n['groups'], flow_['group'])}"
        out.append(Fact(f"Listed: {words}", _of(one, material, "metrics.json", "flow.listed")))
    for name, spec in (one.config.get("features") or {}).items():
        if spec.get("fingerprint"):
            words = f"Stored features {name}, fingerprint {spec['fingerprint']}"
            out.append(Fact(words, _of(one, material, "config.json", f"features.{name}.fingerprint")))
    return out


def preprocessing(material: Material) -> list[Fact]:
    """Return how images and texts were prepared."""
    one = main(material)
    out = []
    for name, spec in (one.config.get("features") or {}).items():
        if words := preprocessing_words(spec):
            out.append(Fact(f"{name}: {words}", _of(one, material, "config.json", f"features.{name}.preprocessing")))
    return out


def subset(material: Material) -> list[Fact]:
    """Return which samples were selected."""
    one = main(material)
    out = _config(
        material,
        {"where": "Selected by", "samples_with": "Samples with these features only", "shots": "Training samples of each class"},
    )
    n = one.metrics["n_samples"]
    whole = f"All samples with features and a label: {counted(n, one.unit)}"
    words = f"Used: {counted(n, one.unit)}" if out else whole
    return [*out, Fact(words, _of(one, material, "metrics.json", "n_samples"))]


def missing(material: Material) -> list[Fact]:
    """Return what was missing, and what was done about it."""
    one = main(material)
    out = []
    for why, n in (one.metrics.get("left_out") or {}).items():
        out.append(Fact(f"Left out, {why}: {counted(n, 'sample')}", _of(one, material, "metrics.json", f"left_out.{why}")))
    for column, found in (one.metrics.get("missing_values") or {}).items():
        words = ", ".join(f"{word or 'empty'} in {n:,}" for word, n in found.items())
        out.append(Fact(f"Missing values of {column}: {words}", _of(one, material, "metrics.json", f"missing_values.{column}")))
    if not out:
        out.append(Fact("No sample was left out, and no value is missing", _of(one, material, "metrics.json", "left_out, missing_values")))
    return out


def partitions(material: Material) -> list[Fact]:
    """Return how the data were divided."""
    one = main(material)
    folds = one.metrics["folds"]
    keys = {"folds": "Folds", "holdout": "Share held out", "split": "Column of the split", "seed": "Random seed", "seeds": "Repetitions", "inner_folds": "Inner folds for selection"}
    out = [fact for fact in _config(material, keys) if not fact.text.startswith("Repetitions: 1")]
    if folds and "n_test" in folds[0]:
        sizes = "; ".join(f"{fold.get('n_train', 0):,} / {fold['n_test']:,}" for fold in folds[:FEW])
        more = " …" if len(folds) > FEW else ""
        out.append(Fact(f"Training / test rows of each fold: {sizes}{more}", _of(one, material, "metrics.json", "folds.n_train, n_test")))
    return out


def disjoint(material: Material) -> list[Fact]:
    """Return the level at which training and test data are disjoint, and what the leak check found."""
    one = main(material)
    column = one.group
    words = f"All samples of {one_group(column)} stay together" if column else "Samples are divided one by one"
    out = [Fact(words, _of(one, material, "config.json", "groups"))]
    found = one.metrics.get("leakage") or {}
    for kind, n in (found.get("identical_across_splits") or {}).items():
        out.append(Fact(f"Identical {kind}s on both sides of a split: {n:,}", _of(one, material, "metrics.json", f"leakage.identical_across_splits.{kind}")))
    if "groups_across_splits" in found:
        n = found["groups_across_splits"]
        out.append(Fact(f"Groups on both sides of a split: {n:,}", _of(one, material, "metrics.json", "leakage.groups_across_splits")))
    if (near := found.get("near_duplicates")) and near.get("threshold") is not None:
        n = near["n_with_copies"] + near["n_like_many"]
        words = f"Test images with a near duplicate in training: {n:,} of {near['n_looked_up']:,}, by chance {near['n_by_chance']:.1f}"
        out.append(Fact(words, _of(one, material, "metrics.json", "leakage.near_duplicates")))
    if found.get("allowed"):
        out.append(Fact(f"Leak accepted: {found['allowed']}", _of(one, material, "metrics.json", "leakage.allowed")))
    return out


def partitions_and_levels(material: Material) -> list[Fact]:
    """Return how the data were divided, and the level at which parts are disjoint."""
    return [*partitions(material), *disjoint(material)]


def model(material: Material) -> list[Fact]:
    """Return what the model is, its inputs and outputs."""
    one = main(material)
    kind = str(one.config.get("head"))
    out = [Fact(f"Head {kind}: {HEADS.get(kind, 'see the documentation')}", _of(one, material, "config.json", "head"))]
    for name, spec in (one.config.get("features") or {}).items():
        words = f"Input {name}: {spec['dim']:,} numbers of {spec['encoder']}, pooling {spec.get('pooling')}"
        out.append(Fact(words, _of(one, material, "config.json", f"features.{name}")))
    key = "outputs" if one.task in ("regression", "survival") else "classes"
    out.append(Fact(f"Output: {one.task}, {listed(one.names[:FEW])}", _of(one, material, "metrics.json", key)))
    return out


def software(material: Material) -> list[Fact]:
    """Return the versions of what the run was made with."""
    return _config(material, {"environment": "Versions", "device": "Computed on"})


def versions(material: Material) -> list[Fact]:
    """Return the versions of model and software."""
    return [*initial(material), *software(material)]


def initial(material: Material) -> list[Fact]:
    """Return where the parameters of the encoder came from."""
    one = main(material)
    out = []
    for name, spec in (one.config.get("features") or {}).items():
        digest = spec.get("weights")
        words = f"{spec['encoder']}" + (f", weights with digest {digest}" if digest else ", which has no weights")
        words += f", adapter {spec['adapter']}" if spec.get("adapter") else ""
        out.append(Fact(f"Encoder of {name}: {words}", _of(one, material, "config.json", f"features.{name}.weights")))
    return out


def predictors(material: Material) -> list[Fact]:
    """Return the inputs of the model."""
    one = main(material)
    return [Fact(f"Features: {listed(one.features)}", _of(one, material, "config.json", "features"))]


def training(material: Material) -> list[Fact]:
    """Return how the model was trained."""
    one = main(material)
    keys = {"command": "Made by", "params": "Given parameters", "train": "Trained parts of the encoder", "epochs": "Epochs", "patience": "Patience", "batch_size": "Batch size", "augment": "Augmentation", "device": "Device"}
    out = _config(material, keys)
    folds = one.metrics["folds"]
    if folds and folds[0].get("params"):
        words = "; ".join(", ".join(f"{k} {_plain(v)}" for k, v in fold["params"].items()) for fold in folds[:FEW])
        out.append(Fact(f"Parameters of each fold: {words}", _of(one, material, "metrics.json", "folds.params")))
    cost = one.results.cost
    if cost.get("seconds") is not None:
        out.append(Fact(f"Seconds: {cost['seconds']:,.0f}", _of(one, material, "cost.json", "seconds")))
    return out


def selection(material: Material) -> list[Fact]:
    """Return how the final model was chosen."""
    one = main(material)
    found = one.metrics.get("selection") or {}
    out = []
    if found.get("by"):
        out.append(Fact(f"Chosen by {metric_inside(found['by'])}, on {found.get('rows')}", _of(one, material, "metrics.json", "selection.by, rows")))
    else:
        words = found.get("note") or "No parameter was chosen from the data"
        out.append(Fact(str(words), _of(one, material, "metrics.json", "selection")))
    if found.get("grid"):
        out.append(Fact(f"Settings tried: {len(found['grid'])}", _of(one, material, "metrics.json", "selection.grid")))
    if found.get("final_params"):
        out.append(Fact(f"Saved head: {_params(found['final_params'])}", _of(one, material, "metrics.json", "selection.final_params")))
    if found.get("saved_head"):
        out.append(Fact(f"Saved head: {found['saved_head']}", _of(one, material, "metrics.json", "selection.saved_head")))
    return out


def _params(found: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {_plain(v)}" for k, v in found.items())


def model_and_selection(material: Material) -> list[Fact]:
    """Return the model, how it was tuned, and how it was validated."""
    return [*model(material), *selection(material), *partitions(material)]


def ensembles(material: Material) -> list[Fact]:
    """Return whether models were combined."""
    one = main(material)
    kind = str(one.config.get("head"))
    words = "The head is an ensemble of trees" if kind == "xgboost" else "No ensemble: one head per fold, each tested alone"
    return [Fact(f"{words} (head {kind})", _of(one, material, "config.json", "head"))]


def measures(material: Material) -> list[Fact]:
    """Return the measures of performance that are reported."""
    one = main(material)
    names = [n for n in HEADLINE[one.task] if one.metrics["mean"].get(n) is not None]
    out = [Fact(f"Reported: {listed([metric_inside(n) for n in names])}", _of(one, material, "metrics.json", "mean"))]
    for key in ("decision_curve", "calibration_pooled", "kaplan_meier"):
        if key in one.metrics:
            out.append(Fact(f"Also: {key.replace('_', ' ')}", _of(one, material, "metrics.json", key)))
    return out


def uncertainty(material: Material) -> list[Fact]:
    """Return how uncertainty was measured, and which tests were made."""
    one = main(material)
    out = []
    if one.metrics.get("intervals"):
        unit = groups_words(2, one.group).removeprefix("2 ") if one.group else "test rows"
        out.append(Fact(f"{percent(one.metrics)} intervals, by resampling {unit}", _of(one, material, "metrics.json", "level, intervals")))
    for found in material.comparisons:
        for pair in found.found["differences"]:
            p = p_value(pair["p"].get(pair["test"]), pair["least_p"].get(pair["test"]))
            words = f"{pair['first']} − {pair['second']}: {number(pair['difference'], '+')} ({span(pair['low'], pair['high'], '+')}), p {p} by {pair['test'].replace('_', ' ')}"
            words += "" if pair["p_holm"] is None else f", corrected p {p_value(pair['p_holm'])}"
            out.append(Fact(words, "compare: differences"))
    return out


def robustness(material: Material) -> list[Fact]:
    """Return subgroups, controls and repetitions."""
    one = main(material)
    out = subgroups(material)
    metric = default_metric(one.task, [one.metrics["mean"]])  # type: ignore[arg-type]
    for name, part in (one.metrics.get("controls") or {}).items():
        if "not_made" not in part:
            words = f"Control, {name}: {metric_inside(metric)} {number(part['mean'].get(metric))}"
            out.append(Fact(words, _of(one, material, "metrics.json", f"controls.{name}.mean.{metric}")))
    if (one.config.get("seeds") or 1) > 1:
        out.append(Fact(f"Repeated with {one.config['seeds']} seeds", _of(one, material, "config.json", "seeds")))
    return out


def subgroups(material: Material) -> list[Fact]:
    """Return the main metric of each subgroup."""
    one = main(material)
    found = one.metrics.get("by")
    if not found:
        return []
    metric = default_metric(one.task, [one.metrics["mean"]])  # type: ignore[arg-type]
    out = []
    for level, part in list(found["levels"].items())[:FEW]:
        low, high = ends(part, metric)
        words = f"{found['column']} {level}: {metric_inside(metric)} {number(part['mean'].get(metric))} ({span(low, high)})"
        out.append(Fact(words, _of(one, material, "metrics.json", f"by.levels.{level}.mean.{metric}")))
    return out


def external(material: Material) -> list[Fact]:
    """Return the results of tests on other data."""
    out = []
    for one in material.external:
        found = one.metrics["external"]
        metric = default_metric(one.task, [one.metrics["mean"]])  # type: ignore[arg-type]
        if metric in found["metrics"]:
            parts = found["metrics"][metric]
            inside, outside, drop = (parts[k] for k in ("internal", "external", "drop"))
            words = (
                f"{counted(one.metrics['n_samples'], one.unit)} of {place_name(one.config.get('store'))}: "
                f"{metric_inside(metric)} {number(outside['value'])} ({span(outside['low'], outside['high'])}), own data "
                f"{number(inside['value'])}, drop {number(drop['value'], '+')} ({span(drop['low'], drop['high'], '+')})"
            )
            out.append(Fact(words, _of(one, material, "metrics.json", f"external.metrics.{metric}")))
        shared = found.get("shared")
        words = "not checked" if shared is None else ", ".join(f"{n:,} by {kind}" for kind, n in shared.items()) or "none"
        out.append(Fact(f"Samples shared with the training data: {words}", _of(one, material, "metrics.json", "external.shared")))
    return out


def flow(material: Material) -> list[Fact]:
    """Return the flow of participants."""
    one = main(material)
    found = one.metrics.get("flow")
    if found is None:
        return [Fact(f"Used: {counted(one.metrics['n_samples'], one.unit)}", _of(one, material, "metrics.json", "n_samples"))]
    out = []
    for key, title in (("listed", "Listed"), ("selected", "Selected")):
        out.append(Fact(f"{title}: {_counts(found[key], found['group'])}", _of(one, material, "metrics.json", f"flow.{key}")))
    for part in found["left_out"]:
        out.append(Fact(f"Left out, {part['reason']}: {_counts(part, found['group'])}", _of(one, material, "metrics.json", "flow.left_out")))
    out.append(Fact(f"Used: {_counts(found['used'], found['group'])}", _of(one, material, "metrics.json", "flow.used")))
    return out


def _counts(found: Mapping[str, Any], group: str | None) -> str:
    words = counted(found["samples"], "sample")
    return words if found["groups"] is None else f"{words}, {groups_words(found['groups'], group or 'group')}"


def demographics(material: Material) -> list[Fact]:
    """Return the table of the cohort, if columns were named."""
    if material.cohort is None:
        return []
    head, rows = material.cohort
    place = 1  # all samples
    words = "; ".join(f"{row[0].strip()} {row[place]}" for row in rows if row[place])
    return [Fact(f"{head[place]}: {words}", f"cohort: {listed(list(material.columns))}")]


def performance(material: Material) -> list[Fact]:
    """Return the main metrics of each run."""
    out = []
    for one in material.subjects:
        for name in TILES[one.task]:
            if (value := one.metrics["mean"].get(name)) is not None:
                std = one.metrics["std"].get(name)
                words = f"{metric_name(name)} {number(value)}" + ("" if std is None else f" ± {number(std)} over folds")
                out.append(Fact(words, _of(one, material, "metrics.json", f"mean.{name}")))
    return out


def precision(material: Material) -> list[Fact]:
    """Return estimates with their intervals."""
    out = []
    for one in material.subjects:
        for name in HEADLINE[one.task]:
            low, high = ends(one.metrics, name)
            if (value := one.metrics["mean"].get(name)) is not None and low is not None:
                words = f"{metric_name(name)} {number(value)}, {percent(one.metrics)} interval {span(low, high)}"
                out.append(Fact(words, _of(one, material, "metrics.json", f"intervals.{name}")))
    return out


def failures(material: Material) -> list[Fact]:
    """Return how many test rows are wrong, and the surest mistakes."""
    one = main(material)
    found, n = worst(one, 3)
    if not found:
        return []
    words = "; ".join(f"{mistake.true}, {mistake.called}" for mistake in found)
    count = f"{n:,} of {len(one.results.predictions):,} test rows are wrong. " if one.task in ("binary", "multiclass", "ordinal") else ""
    return [Fact(f"{count}The surest mistakes: {words}", _of(one, material, "predictions.parquet", "label, predicted, scores"))]


def outcome(material: Material) -> list[Fact]:
    """Return what is predicted."""
    one = main(material)
    out = _config(material, {"label": "Column", "time": "Column of times", "event": "Column of events", "merge": "Names read as one"})
    if positive := one.metrics.get("positive"):
        out.append(Fact(f"Positive class: {positive['name']}", _of(one, material, "metrics.json", "positive.name")))
    return out


def applied(material: Material) -> list[Fact]:
    """Return how predictions were made on other data."""
    return [
        Fact(f"Saved head of {place_name(one.config.get('run'))}, nothing fitted", _of(one, material, "config.json", "run"))
        for one in material.external
    ]


def imbalance(material: Material) -> list[Fact]:
    """Return the size of the classes."""
    one = main(material)
    counts = one.metrics.get("class_counts")
    if not counts:
        return []
    words = ", ".join(f"{c['name']} {c['n_samples']:,}" for c in counts[:FEW])
    return [Fact(f"Samples of each class: {words}. Rows are neither weighted nor drawn again for it unless a parameter says so", _of(one, material, "metrics.json", "class_counts"))]


def events(material: Material) -> list[Fact]:
    """Return the number of samples and events."""
    one = main(material)
    out = [Fact(f"Rows: {one.metrics['n_samples']:,}", _of(one, material, "metrics.json", "n_samples"))]
    if of := one.metrics.get("followed"):
        out.append(Fact(f"Events: {of['events']:,}", _of(one, material, "metrics.json", "followed.events")))
    elif counts := one.metrics.get("class_counts"):
        words = ", ".join(f"{c['name']} {c['n_samples']:,}" for c in counts[:FEW])
        out.append(Fact(f"Of each class: {words}", _of(one, material, "metrics.json", "class_counts")))
    return out


def output(material: Material) -> list[Fact]:
    """Return the output of the model, and its threshold."""
    one = main(material)
    what = {"regression": "a number", "survival": "a log hazard"}.get(one.task, "a probability for each class")
    out = [Fact(f"Output: {what}", _of(one, material, "metrics.json", "task"))]
    if found := one.metrics.get("threshold"):
        at = (one.results.decision.get("threshold") or {}).get("threshold")
        words = f"Threshold for a {found['target']} of {found['at']:g}" + ("" if at is None else f": {number(at)}")
        out.append(Fact(words, _of(one, material, "decision.json" if at is not None else "metrics.json", "threshold")))
    elif one.task == "binary":
        out.append(Fact("No threshold was chosen: classes are the likelier one", _of(one, material, "config.json", "sensitivity, specificity")))
    return out


def specification(material: Material) -> list[Fact]:
    """Return where the whole model stands."""
    one = main(material)
    return [
        *model(material),
        Fact("Every number of the saved head is in head.safetensors and head.json of the run", _of(one, material, "head.json", "all")),
    ]


def cross_table(material: Material) -> list[Fact]:
    """Return the counts of true against predicted classes."""
    one = main(material)
    if one.task not in ("binary", "multiclass", "ordinal") or len(one.names) > FEW:
        return []
    counts = confusion_counts(one)
    words = "; ".join(
        f"true {true}: " + ", ".join(f"{int(counts[i, j]):,} called {called}" for j, called in enumerate(one.names))
        for i, true in enumerate(one.names)
    )
    return [Fact(words, _of(one, material, "predictions.parquet", "label, predicted"))]


def prepared_sources(material: Material) -> list[Fact]:
    """Return where the data came from and how they were prepared."""
    facts: Sequence[Fact] = [*sources(material), *preprocessing(material)]
    return list(facts)
