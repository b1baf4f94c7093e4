"""What was done, in sentences: written from config.json and metrics.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from headwater._words import counted, size
from headwater.embed.known import short_name
from headwater.report.html.material import Subject
from headwater.report.html.words import groups_words, listed, metric_inside, one_group, percent, sentence
from headwater.runs.printed import lines_of_texts
from headwater.samples.label_sql import label_sql_of

HEADS: Mapping[str, str] = {
    "linear": "a logistic regression on the features (linear probe)",
    "ordinal": "an ordinal regression on the features",
    "mlp": "a small neural network on the features",
    "knn": "the most similar training cases (k nearest neighbours)",
    "prototypes": "the mean feature of each class (prototypes)",
    "gda": "a Gaussian discriminant analysis of the features",
    "ridge": "a ridge regression on the features",
    "cox": "a Cox proportional hazards model of the features",
    "xgboost": "boosted decision trees on the features",
    "tip-adapter": "stored training cases combined with text prompts (Tip-Adapter)",
    "tip-adapter-f": "stored training cases combined with text prompts, fine-tuned (Tip-Adapter-F)",
    "transclip": "text prompts and labelled cases, all test cases classified together (TransCLIP)",
    "token-mlp": "a small neural network over the parts of an image or text",
    "self-attention": "self-attention over the parts of an image or text",
    "merged-attention": "attention over the joined parts of image and text",
    "cross-attention": "attention from one input to the other",
    "co-attention": "attention between the parts of image and text",
    "efficient-probing": "an attention probe over the parts of an image or text",
    "mil": "attention over the images of a bag (multiple-instance learning)",
    "zero-shot": "the similarity of images to text prompts, without training",
    "zero-shot-transductive": "the similarity of images to text prompts, all test images classified together",
}
KINDS: Mapping[str, str] = {"image": "the image", "text": "the text", "pair": "the image with its text"}
SHOWN = 12  # words of preprocessing, columns, classes


def about(one: Subject, *, ids: bool) -> list[tuple[str, list[str]]]:
    """Return what was done as pairs of a heading and sentences."""
    parts = [
        ("Question", _question(one)),
        ("Samples", _samples(one)),
        ("Independence", _independence(one)),
        ("Features", _features(one)),
        ("Model", _model(one)),
        ("Choice of parameters", _selection(one)),
        ("Testing", _testing(one)),
        ("Decisions", _decisions(one)),
        ("Leak check", leak_lines(one)),
        ("Cautions", cautions(one, ids=ids)),
        ("Made with", _made_with(one)),
    ]
    return [(title, [sentence(line) for line in lines]) for title, lines in parts if lines]


def inputs_words(names: list[str]) -> str:
    """Name the inputs of a head: the image, the text, or several feature sets of one kind."""
    kinds = [name.rpartition("/")[2] for name in names]
    return listed([KINDS.get(k, n) if kinds.count(k) == 1 else n for k, n in zip(kinds, names, strict=True)])


def place_name(place: Any) -> str:
    """Return the last part of a path or URL: a report does not tell the folders of the machine."""
    return PurePosixPath(str(place)).name or str(place)


def _question(one: Subject) -> list[str]:
    label, from_ = listed(one.labels), inputs_words(one.features)
    named = listed([f"{name}" for name in one.names[:SHOWN]], "or") if one.names else ""
    more = len(one.names) - SHOWN
    classes = named + (f" … and {more} more" if more > 0 else "")
    if one.config["command"] == "zero-shot":
        from_ = "the image by text prompts"
    columns = listed([str(one.config.get(name)) for name in ("time", "event")])
    of = {
        "survival": f"the time until an event ({columns}) from {from_}",
        "regression": f"the number{'s' if len(one.labels) > 1 else ''} {label} from {from_}",
        "multilabel": f"which of the labels {classes} apply, from {from_}",
        "ordinal": f"the grade {label} ({classes}, in this order) from {from_}",
    }
    out = [f"This run predicts {of.get(one.task, f'{label} ({classes}) from {from_}')}"]
    if (positive := one.metrics.get("positive")) is not None:
        out.append(f"A case counts as positive when it is {positive['name']}")
    return out


def _samples(one: Subject) -> list[str]:
    source = one.config.get("store") or one.config.get("manifest")
    n = counted(one.metrics["n_samples"], one.unit)
    flow = one.metrics.get("flow")
    out = []
    if flow is not None:
        listed_ = flow["listed"]
        of = "" if listed_["groups"] is None else f" of {groups_words(listed_['groups'], flow['group'])}"
        what = "store" if one.config.get("store") else "table"
        out.append(f"The {what} {place_name(source)} lists {counted(listed_['samples'], 'sample')}{of}")
    elif source:
        out.append(f"The samples come from {place_name(source)}")
    if one.config.get("where"):
        out.append(f"Selected were those with {one.config['where']}")
    for name, sql in label_sql_of(one.config).items():
        out.append(f"The label {name} is defined as {sql}")
    for why, count in (one.metrics.get("left_out") or {}).items():
        out.append(f"{counted(count, 'sample')} {'was' if count == 1 else 'were'} left out: {why}")
    out.append(f"{n} {'was' if one.metrics['n_samples'] == 1 else 'were'} used")
    missing = one.metrics.get("missing_values") or {}
    for column, found in missing.items():
        words = ", ".join(f"{word or 'empty'} in {count:,}" for word, count in found.items())
        out.append(f"Missing values of {column}: {words}")
    merged = {old: new for old, new in (one.config.get("merge") or one.config.get("map") or {}).items() if old != new}
    if merged:
        words = "; ".join(f"{old} as {new}" if new else f"{old} left out" for old, new in list(merged.items())[:SHOWN])
        out.append(f"Labels were read as follows: {words}")
    return out


def _independence(one: Subject) -> list[str]:
    if one.group is not None:
        what = "resampled together for intervals" if one.is_external else "kept on one side of every split"
        out = [f"All samples of {one_group(one.group)} are {what}, and count as one independent observation"]
    else:
        out = ["Samples are treated as independent of each other: no column of patients was named"]
    if one.config.get("bags"):
        out.append(f"A row is a {one.unit}: the samples that share a value of {one.config['bags']}")
    if one.config.get("per"):
        how = one.config.get("aggregate") or "mean"
        out.append(f"Results are also given by {one.config['per']}, with the {how} of its samples' scores")
    return out


def _features(one: Subject) -> list[str]:
    tuned = one.config["command"] == "fine-tune"
    out = []
    for name, spec in (one.config.get("features") or {}).items():
        what = {"image": "Each image", "text": "Each text"}.get(str(spec.get("modality")), "Each image with its text")
        how = "further trained here" if tuned or spec.get("adapter") else "not trained on these data"
        tokens = one.config.get("tokens") or ()
        into = "one vector for each of its parts" if name in tokens else f"{spec['dim']:,} numbers"
        out.append(
            f"{what} is turned into {into} by the encoder {short_name(str(spec['encoder']))}, which was {how} ({name})"
        )
        if steps := preprocessing_words(spec):
            out.append(f"Before that it is prepared: {steps}")
    if made := one.metrics.get("text_template"):
        columns = ", ".join(map(str, made["columns"]))
        out.append(f"The texts were written by a template (digest {made['digest'][:8]}), from the columns {columns}")
    return out


def preprocessing_words(spec: Mapping[str, Any]) -> str:
    """Return an encoder's preprocessing as words."""
    found = {
        k: v for k, v in (spec.get("preprocessing") or {}).items() if k not in ("version", "steps") and v is not None
    }
    words = [f"{key.replace('_', ' ')} {_plain(value)}" for key, value in list(found.items())[:SHOWN]]
    steps = (spec.get("preprocessing") or {}).get("steps")
    return "; ".join([*([f"first {_plain(steps)}"] if steps else []), *words])


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    words = json.dumps(value, ensure_ascii=False)
    return words if len(words) <= 120 else f"{words[:119]}…"


def _model(one: Subject) -> list[str]:
    kind = str(one.config.get("head"))
    out = [f"The prediction is made by {HEADS.get(kind, f'a head of the kind {kind}')}"]
    if one.is_external:
        out.append(f"It is the saved head of {place_name(one.config.get('run'))}; nothing was fitted to these samples")
    training = one.metrics.get("training")
    if training is not None:
        asked = {k: one.config.get(k) for k in ("train", "epochs", "patience", "batch_size", "lr", "augment")}
        words = "; ".join(f"{k.replace('_', ' ')} {_plain(v)}" for k, v in asked.items() if v not in (None, [], {}))
        out.append(f"The encoder was trained with the head: {words}")
    if len(one.features) > 1 and kind in ("linear", "ridge", "mlp", "cox", "ordinal"):
        out.append("The features of all inputs are joined")
    return out


def _selection(one: Subject) -> list[str]:
    found = one.metrics.get("selection") or {}
    if found.get("note"):
        return [str(found["note"])]
    if found.get("by") is None:
        given = one.config.get("params") or {}
        words = ", ".join(f"{k} = {_plain(v)}" for k, v in given.items())
        if one.is_external:
            return []
        return [f"Parameters were given, not chosen: {words}" if words else "No parameter was chosen from the data"]
    n = len(found.get("grid") or ()) or found.get("trials")
    among = f" among {n} settings" if isinstance(n, int) and n else ""
    out = [f"Parameters were chosen{among} by {metric_inside(str(found['by']))}, on {found.get('rows')}"]
    out.append("No row was used to choose the parameters of a model that it tests")
    final = found.get("final_params")
    if final:
        words = ", ".join(f"{k} = {_number(v)}" for k, v in final.items())
        out.append(f"The saved head for new cases has {words}; {found.get('saved_head')}")
    for edge in found.get("at_edge") or ():
        out.append(
            f"{edge['param']} was chosen at the {edge['end']} value of its grid in {edge['n_folds']} of {edge['of']} "
            "folds: a wider grid may do better"
        )
    return out


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else _plain(value)


def _testing(one: Subject) -> list[str]:
    folds, config = one.metrics.get("folds") or [], one.config
    n = len({fold.get("fold") for fold in folds})
    out = []
    if one.is_external or config["command"] == "zero-shot":
        out.append("All samples are test samples")
    elif config.get("split"):
        out.append(f"Training and test samples are those of the column {config['split']}")
    elif config.get("holdout"):
        out.append(f"One part of the samples was held out for testing ({config['holdout']:g} of all)")
    elif n > 1:
        out.append(f"{n}-fold cross-validation: each {one.unit} is tested once, by a model that was fitted without it")
    if (config.get("seeds") or 1) > 1:
        out.append(f"This was repeated with {config['seeds']} random seeds, starting at {config['seed']}")
    elif config.get("seed") is not None and n > 1:
        out.append(f"Folds were drawn with random seed {config['seed']}")
    if config.get("shots"):
        out.append(f"Only {config['shots']} training samples of each class were used (few-shot)")
    if n > 1 and folds and "n_train" in folds[0]:
        trained, tested = ([fold[k] for fold in folds] for k in ("n_train", "n_test"))
        out.append(f"Models were fitted on {_range(trained)} rows and tested on {_range(tested)}")
    if one.metrics.get("intervals"):
        unit = groups_words(2, one.group).removeprefix("2 ") if one.group else "test rows"
        out.append(
            f"{percent(one.metrics)} intervals resample {unit}: they say how far other test cases from the same source "
            "would move a number, not how far other training cases would"
        )
    return out


def _range(values: list[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _decisions(one: Subject) -> list[str]:
    metrics, out = one.metrics, []
    if "calibration" in metrics:
        found = metrics["calibration"]
        out.append(
            f"Probabilities are calibrated by {found['method']} scaling, fitted to {found['fitted_to']}".replace(
                "isotonic scaling", "isotonic regression"
            )
        )
    if "threshold" in metrics:
        found = metrics["threshold"]
        out.append(f"The threshold aims at a {found['target']} of {found['at']:g}, chosen on {found['chosen_on']}")
    if "conformal" in metrics:
        found = metrics["conformal"]
        out.append(
            f"Prediction sets may miss the true class in {100 * found['alpha']:g} % of cases, fitted to "
            f"{found['fitted_to']}"
        )
    return out


def leak_lines(one: Subject) -> list[str]:
    """Say what the leak check found."""
    found = one.metrics.get("leakage")
    if one.is_external:
        shared = (one.metrics.get("external") or {}).get("shared")
        if shared is None:
            return ["Whether the head was fitted on any of these samples could not be checked"]
        words = [f"{n:,} by {kind}" for kind, n in shared.items() if n]
        return [f"Samples that the head was fitted on: {', '.join(words) if words else 'none'}"]
    if found is None:
        return []
    out = []
    for kind, n in (found.get("identical_across_splits") or {}).items():
        how_many = "No" if n == 0 else f"{n:,}"
        out.append(f"{how_many} identical {kind}{'' if n < 2 else 's'} on both sides of a split")
    if "groups_across_splits" in found:
        n = found["groups_across_splits"]
        column = one.group or "group"
        some = one_group(column).replace("one", "No", 1) if n == 0 else groups_words(n, column)
        out.append(f"{some} on both sides of a split")
    near = found.get("near_duplicates")
    if near and near.get("threshold") is not None:
        n = near["n_with_copies"] + near["n_like_many"]
        out.append(
            f"{n:,} of {near['n_looked_up']:,} test images looked up have a near duplicate in training; "
            f"{near['n_by_chance']:.1f} are expected by chance"
        )
    out += [line.removeprefix("texts: ") for line in lines_of_texts(found.get("texts"))]
    if found.get("allowed"):
        out.append(f"A leak was accepted for this reason: {found['allowed']}")
    return out


def cautions(one: Subject, *, ids: bool) -> list[str]:
    """Return what a reader should know before believing the numbers."""
    out = []
    for line in one.metrics.get("warnings") or ():
        if not ids and line.startswith("--groups"):
            out.append(f"Values of {one.group} seem to differ only in spelling; they are named with --ids")
        else:
            out.append(str(line))
    if (one.metrics.get("leakage") or {}).get("allowed"):
        out.append("A leak between training and test samples was accepted, so that results may be too good")
    positive = one.metrics.get("positive")
    if positive and positive.get("by") == "order":
        out.append(f"The class {positive['name']} counts as positive only because it comes last in sorted order")
    for section in (one.metrics, one.metrics.get("per") or {}):
        if few := (section.get("threshold") or {}).get("too_few"):
            out.append(
                f"The threshold was chosen on {few['groups']:,} groups in a fold, but needs at least {few['needed']:,}"
            )
    partly = [n for n, k in (one.metrics.get("n_folds") or {}).items() if 0 < k < len(one.metrics.get("folds") or ())]
    if partly:
        out.append(f"{len(partly)} metrics are not defined in every fold, and are means over the others")
    if absent := one.metrics.get("classes_without_samples"):
        out.append(f"There are no samples of {listed(absent)}")
    if "transduction" in one.metrics:
        out.append("Test samples were classified together: the result for one depends on the others")
    return out


def _made_with(one: Subject) -> list[str]:
    found = one.config.get("environment") or {}
    out = []
    if found:
        out.append(", ".join(f"{name} {version}" for name, version in found.items()))
    cost = one.metrics.get("training") or one.results.cost
    if isinstance(cost.get("seconds"), (int, float)):
        words = f"The run took {cost['seconds']:,.{0 if cost['seconds'] >= 10 else 1}f} seconds"
        if isinstance(cost.get("peak_memory_bytes"), int):
            words += f" and at most {size(cost['peak_memory_bytes'])} of memory"
        out.append(words)
    return out
