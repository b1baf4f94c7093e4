"""What a run's files say for the items of a checklist: each fact with the value, its file and its key."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headwater._words import counted
from headwater.embed.known import short_name
from headwater.report.html.about import HEADS, place_name, preprocessing_words
from headwater.report.html.material import Material, Subject
from headwater.report.html.words import (
    groups_words,
    listed,
    metric_inside,
    number,
    one_group,
)

FEW = 12


@dataclass(frozen=True)
class Fact:
    """A fact in words, the file and key that it came from, and the run; None for the run of the checklist."""

    text: str
    source: str
    run: str | None = None

    def place(self, material: Material) -> str:
        """Return the file and key, with the run where there are several."""
        several = len(material.subjects) > 1 and (".json" in self.source or ".parquet" in self.source)
        return f"{self.run or main(material).name}, {self.source}" if several else self.source


def main(material: Material) -> Subject:
    """Return the run that a checklist is about: the first, if possible one that was fitted."""
    return (material.inner or list(material.subjects))[0]


def _plain(value: Any) -> str:
    if value is None:
        return "not given"
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping) and all(isinstance(part, (str, int, float)) for part in value.values()):
        return ", ".join(f"{key} {_plain(part)}" for key, part in value.items())
    return json.dumps(value, ensure_ascii=False)


def _config(material: Material, keys: Mapping[str, str], one: Subject | None = None) -> list[Fact]:
    """Return options of a run that were given, by what they mean."""
    one = one or main(material)
    out = []
    for key, words in keys.items():
        value = one.config.get(key)
        if value is not None and value is not False and value not in ("", [], {}):
            out.append(Fact(f"{words}: {_plain(value)}", f"config.json: {key}"))
    return out


def sources(material: Material) -> list[Fact]:
    """Return where the data came from."""
    one = main(material)
    key = "store" if one.config.get("store") else "manifest"
    out = [Fact(f"Store or manifest: {place_name(one.config.get(key))}", f"config.json: {key}")]
    if flow_ := one.metrics.get("flow"):
        n = flow_["listed"]
        words = counted(n["samples"], "sample")
        words += "" if n["groups"] is None else f" of {groups_words(n['groups'], flow_['group'])}"
        out.append(Fact(f"Listed: {words}", "metrics.json: flow.listed"))
    for name, spec in (one.config.get("features") or {}).items():
        if spec.get("fingerprint"):
            words = f"Stored features {name}, fingerprint {spec['fingerprint']}"
            out.append(Fact(words, f"config.json: features.{name}.fingerprint"))
    return out


def preprocessing(material: Material) -> list[Fact]:
    """Return how images and texts were prepared."""
    one = main(material)
    out = []
    for name, spec in (one.config.get("features") or {}).items():
        if words := preprocessing_words(spec):
            out.append(Fact(f"{name}: {words}", f"config.json: features.{name}.preprocessing"))
    return out


def subset(material: Material) -> list[Fact]:
    """Return which samples were selected."""
    one = main(material)
    out = _config(
        material,
        {
            "where": "Selected by",
            "samples_with": "Samples with these features only",
            "shots": "Training samples of each class",
        },
    )
    n = one.metrics["n_samples"]
    whole = f"All samples with features and a label: {counted(n, one.unit)}"
    words = f"Used: {counted(n, one.unit)}" if out else whole
    return [*out, Fact(words, "metrics.json: n_samples")]


def missing(material: Material) -> list[Fact]:
    """Return what was missing, and what was done about it."""
    one = main(material)
    out = []
    for why, n in (one.metrics.get("left_out") or {}).items():
        out.append(Fact(f"Left out, {why}: {counted(n, 'sample')}", f"metrics.json: left_out.{why}"))
    for column, found in (one.metrics.get("missing_values") or {}).items():
        words = ", ".join(f"{word or 'empty'} in {n:,}" for word, n in found.items())
        out.append(Fact(f"Missing values of {column}: {words}", f"metrics.json: missing_values.{column}"))
    if not out:
        out.append(
            Fact(
                "No sample was left out, and no value is missing",
                "metrics.json: left_out, missing_values",
            )
        )
    return out


def partitions(material: Material) -> list[Fact]:
    """Return how the data were divided."""
    one = main(material)
    folds = one.metrics["folds"]
    keys = {
        "folds": "Folds",
        "holdout": "Share held out",
        "split": "Column of the split",
        "seed": "Random seed",
        "seeds": "Repetitions",
        "inner_folds": "Inner folds for selection",
    }
    out = [fact for fact in _config(material, keys) if not fact.text.startswith("Repetitions: 1")]
    if folds and "n_test" in folds[0]:
        sizes = "; ".join(f"{fold.get('n_train', 0):,} / {fold['n_test']:,}" for fold in folds[:FEW])
        more = " …" if len(folds) > FEW else ""
        out.append(
            Fact(
                f"Training / test rows of each fold: {sizes}{more}",
                "metrics.json: folds.n_train, n_test",
            )
        )
    return out


def disjoint(material: Material) -> list[Fact]:
    """Return the level at which training and test data are disjoint, and what the leak check found."""
    one = main(material)
    column = one.group
    words = f"All samples of {one_group(column)} stay together" if column else "Samples are divided one by one"
    out = [Fact(words, "config.json: groups")]
    found = one.metrics.get("leakage") or {}
    for kind, n in (found.get("identical_across_splits") or {}).items():
        out.append(
            Fact(
                f"Identical {kind}s on both sides of a split: {n:,}",
                f"metrics.json: leakage.identical_across_splits.{kind}",
            )
        )
    if "groups_across_splits" in found:
        n = found["groups_across_splits"]
        out.append(
            Fact(
                f"Groups on both sides of a split: {n:,}",
                "metrics.json: leakage.groups_across_splits",
            )
        )
    if (near := found.get("near_duplicates")) and near.get("threshold") is not None:
        n = near["n_with_copies"] + near["n_like_many"]
        words = f"Test images with a near duplicate in training: {n:,} of {near['n_looked_up']:,}"
        words += f", by chance {near['n_by_chance']:.1f}"
        out.append(Fact(words, "metrics.json: leakage.near_duplicates"))
    if found.get("allowed"):
        out.append(Fact(f"Leak accepted: {found['allowed']}", "metrics.json: leakage.allowed"))
    return out


def partitions_and_levels(material: Material) -> list[Fact]:
    """Return how the data were divided, and the level at which parts are disjoint."""
    return [*partitions(material), *disjoint(material)]


def model(material: Material) -> list[Fact]:
    """Return what the model is, its inputs and outputs."""
    one = main(material)
    kind = str(one.config.get("head"))
    out = [Fact(f"Head {kind}: {HEADS.get(kind, 'see the documentation')}", "config.json: head")]
    for name, spec in (one.config.get("features") or {}).items():
        encoder = short_name(str(spec["encoder"]))
        words = f"Input {name}: {spec['dim']:,} numbers of {encoder}, pooling {spec.get('pooling')}"
        out.append(Fact(words, f"config.json: features.{name}"))
    key = "outputs" if one.task in ("regression", "survival") else "classes"
    out.append(Fact(f"Output: {one.task}, {listed(one.names[:FEW])}", f"metrics.json: {key}"))
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
        words = short_name(str(spec["encoder"])) + (
            f", weights with digest {digest}" if digest else ", which has no weights"
        )
        words += f", adapter {spec['adapter']}" if spec.get("adapter") else ""
        out.append(Fact(f"Encoder of {name}: {words}", f"config.json: features.{name}.weights"))
    return out


def predictors(material: Material) -> list[Fact]:
    """Return the inputs of the model."""
    one = main(material)
    return [Fact(f"Features: {listed(one.features)}", "config.json: features")]


def training(material: Material) -> list[Fact]:
    """Return how the model was trained."""
    one = main(material)
    keys = {
        "command": "Made by",
        "params": "Given parameters",
        "train": "Trained parts of the encoder",
        "epochs": "Epochs",
        "patience": "Patience",
        "batch_size": "Batch size",
        "augment": "Augmentation",
        "device": "Device",
    }
    out = _config(material, keys)
    folds = one.metrics["folds"]
    if folds and folds[0].get("params"):
        words = "; ".join(", ".join(f"{k} {_plain(v)}" for k, v in fold["params"].items()) for fold in folds[:FEW])
        out.append(Fact(f"Parameters of each fold: {words}", "metrics.json: folds.params"))
    cost = one.results.cost
    if cost.get("seconds") is not None:
        out.append(Fact(f"Seconds: {cost['seconds']:,.0f}", "cost.json: seconds"))
    return out


def selection(material: Material) -> list[Fact]:
    """Return how the final model was chosen."""
    one = main(material)
    found = one.metrics.get("selection") or {}
    out = []
    if found.get("by"):
        out.append(
            Fact(
                f"Chosen by {metric_inside(found['by'])}, on {found.get('rows')}",
                "metrics.json: selection.by, rows",
            )
        )
    else:
        words = found.get("note") or "No parameter was chosen from the data"
        out.append(Fact(str(words), "metrics.json: selection"))
    if found.get("grid"):
        out.append(Fact(f"Settings tried: {len(found['grid'])}", "metrics.json: selection.grid"))
    if found.get("final_params"):
        out.append(
            Fact(
                f"Saved head: {_params(found['final_params'])}",
                "metrics.json: selection.final_params",
            )
        )
    if found.get("saved_head"):
        out.append(Fact(f"Saved head: {found['saved_head']}", "metrics.json: selection.saved_head"))
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
    words = (
        "The head is an ensemble of trees" if kind == "xgboost" else "No ensemble: one head per fold, each tested alone"
    )
    return [Fact(f"{words} (head {kind})", "config.json: head")]


def outcome(material: Material) -> list[Fact]:
    """Return what is predicted."""
    one = main(material)
    out = _config(
        material,
        {"label": "Column", "time": "Column of times", "event": "Column of events", "merge": "Names read as one"},
    )
    if positive := one.metrics.get("positive"):
        out.append(Fact(f"Positive class: {positive['name']}", "metrics.json: positive.name"))
    return out


def output(material: Material) -> list[Fact]:
    """Return the output of the model, and its threshold."""
    one = main(material)
    what = {"regression": "a number", "survival": "a log hazard"}.get(one.task, "a probability for each class")
    out = [Fact(f"Output: {what}", "metrics.json: task")]
    if found := one.metrics.get("threshold"):
        at = (one.results.decision.get("threshold") or {}).get("threshold")
        words = f"Threshold for a {found['target']} of {found['at']:g}" + ("" if at is None else f": {number(at)}")
        out.append(Fact(words, "decision.json: threshold" if at is not None else "metrics.json: threshold"))
    elif one.task == "binary":
        out.append(
            Fact(
                "No threshold was chosen: classes are the likelier one",
                "config.json: sensitivity, specificity",
            )
        )
    return out


def specification(material: Material) -> list[Fact]:
    """Return where the whole model stands."""
    return [
        *model(material),
        Fact(
            "Every number of the saved head is in head.safetensors and head.json of the run",
            "head.json: all",
        ),
    ]


def applied(material: Material) -> list[Fact]:
    """Return how predictions were made on other data."""
    return [
        Fact(
            f"Saved head of {place_name(one.config.get('run'))}, nothing fitted",
            "config.json: run",
            one.name,
        )
        for one in material.external
    ]


def prepared_sources(material: Material) -> list[Fact]:
    """Return where the data came from and how they were prepared."""
    facts: Sequence[Fact] = [*sources(material), *preprocessing(material)]
    return list(facts)
