"""zero-shot: score images by their distance to prompts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from headwater.api._lines import counted
from headwater.api._samples import levels, require_column, with_labels
from headwater.api._texts import features_of_texts, require_dual
from headwater.api.run import Run, described, environment, metrics_of, predictions_of, run_folder, write_run
from headwater.errors import InputError, nearest
from headwater.evaluate import Fold, Outcome, Split, score
from headwater.evaluate.metrics import Task
from headwater.heads import ZeroShot, mean_prompt, read_prompts
from headwater.store import Store, open_store


def zero_shot(
    store: str | Path | Store,
    *,
    features: str,
    prompts: str | Path,
    label: str,
    where: str | None = None,
    by: str | None = None,
    weights: str | Path | None = None,
    device: str = "auto",
    out: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> Run:
    """Score images by how near they are to each class's prompts, in the stored features of a dual encoder.

    Prompts are texts like any other: those that ``NAME/text`` holds already are not embedded again, the others are,
    and stay there.

    Parameters
    ----------
    store
        A store, or where it is.
    features
        The encoder's name in the store: ``NAME`` of ``NAME/image`` and ``NAME/text``.
    prompts
        A TOML file; see `headwater.heads.read_prompts`.
    label
        The column that holds the true class.
    where, by, out, progress
        As for `fit_head`.
    weights, device
        For loading the encoder, should prompts have to be embedded.

    Raises
    ------
    InputError, HeadError, StoreError, EncoderError
        Each with one line that says what, where and what to do.
    """
    target = run_folder(out)
    described_as = read_prompts(prompts)
    opened = store if isinstance(store, Store) else open_store(store)
    name = features.removesuffix("/image").removesuffix("/text")
    image, text = f"{name}/image", f"{name}/text"
    require_column(opened, label, "--label")
    if by is not None:
        require_column(opened, by, "--by")
    data, found = with_labels(opened.read(image, where=where), [label], None)
    if found.names is not None:
        raise InputError(f"label column {label!r} holds lists: zero-shot needs one class for each sample.")
    y = found.y.astype(str)
    unknown = sorted(set(y.tolist()) - set(described_as.classes))
    if unknown:
        there = ", ".join(described_as.classes)
        near = nearest(unknown[0], described_as.classes)
        raise InputError(f"--prompts {prompts} says nothing of label {unknown[0]!r}.{near} It has: {there}.")
    if text in opened.feature_names():
        require_dual(opened, image, text)
    if progress is not None:
        progress(f"{counted(len(y), 'sample')} with {image}, {counted(len(set(described_as.texts)), 'prompt')}")
    vectors, scale = features_of_texts(opened, text, described_as.texts, weights=weights, device=device)
    ends = np.cumsum([len(described_as.texts_of(c)) for c in described_as.classes])
    means = np.stack([mean_prompt(part) for part in np.split(vectors, ends[:-1])])
    head = ZeroShot(means, list(described_as.classes), logit_scale=scale)
    scores = head.predict_proba(data.X)
    task: Task = "binary" if len(head.classes_) == 2 else "multiclass"
    metrics_found = score(task, y, scores, classes=head.classes_)
    everything = Split(0, np.arange(0), np.arange(len(y)))
    outcome = Outcome(
        task=task,
        classes=head.classes_,
        folds=[Fold(everything, {}, scores, metrics_found)],
        head=head,
        params={},
        selection={"by": None, "rows": None, "note": "nothing was fitted: every sample is tested"},
    )
    config = {
        "command": "zero-shot",
        "store": str(opened.path.resolve()),
        "features": described(opened, [image, text]),
        "label": [label],
        "classes": head.classes_.tolist(),
        "head": "zero-shot",
        "prompts": {
            "templates": list(described_as.templates),
            "classes": {k: list(v) for k, v in described_as.classes.items()},
        },
        "logit_scale": scale,
        "where": where,
        "by": by,
        "environment": environment(),
    }
    classes = head.classes_.tolist()
    metrics = metrics_of(outcome, data, y, classes=classes, by=None if by is None else (by, levels(data, by)))
    predictions = predictions_of(data.ids, y, outcome, classes)
    return write_run(target, Run(target, config, metrics, predictions, head), "zero-shot")
