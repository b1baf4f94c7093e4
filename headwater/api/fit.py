"""fit-head: fit a head on stored features, and write a run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from headwater._checks import require_names
from headwater._devices import Device
from headwater._options import with_options
from headwater._progress import Progress, progress_to
from headwater._writable import require_writable
from headwater.errors import HeadwaterError, InputError
from headwater.evaluate.fold_means import natural
from headwater.evaluate.options import Protocol
from headwater.experiment.fit import Controls, FitOptions, labels_of
from headwater.experiment.head import HeadChoice
from headwater.runs.families import FAMILY
from headwater.runs.run import Run
from headwater.runs.write import run_folder, to_json
from headwater.samples.columns import require_column
from headwater.samples.label_names import with_merge
from headwater.samples.selection import Selection
from headwater.store import Store, open_store


def fit_head(
    store: str | Path | Store,
    *,
    features: str | Sequence[str],
    label: str | Sequence[str] | None = None,
    head: str | None = None,
    params: Mapping[str, Any] | None = None,
    prompts: str | Path | None = None,
    controls: Controls = None,
    keep_folds: bool = False,
    device: Device = "auto",
    allow_leakage: str | None = None,
    protocol: Protocol | None = None,
    selection: Selection | None = None,
    out: str | Path | None = None,
    progress: Progress | bool | None = None,
    **options: Any,
) -> Run:
    """Fit a head on stored features and evaluate it; parameters are selected inside the training rows of each fold.

    Parameters
    ----------
    store
        A store, or its path.
    features
        One or more feature sets, ``NAME/MODALITY``; several are concatenated, or fused by the head. Heads over tokens
        read tokens; with ``NAME/MODALITY:pooled`` they read the pooled feature as one token.
    label
        The column to predict; several columns of 0 and 1, or one column of lists, make a multi-label task. With
        ``task="survival"``, ``time`` and ``event`` take its place.
    head
        Kind of head. Default: ``linear``; ``ridge`` for regression, ``cox`` for survival, ``ordinal`` for grades.
    params
        Parameters of the head. A list of values is searched, unless the parameter is itself a list. The head's own grid
        is searched too, unless a parameter of it is given here.
    prompts
        A TOML file with the texts of each class, for heads that compare images with texts, such as ``tip-adapter``;
        see `headwater.heads.read_prompts`. Prompts that the store lacks are embedded and stored.
    controls
        Also evaluate, on the same splits, each input alone, shuffled inputs, and random features; with ``"ablation"``
        also the texts of a template (`text`) without each of its columns. By default each input alone and shuffled
        pairs, where such texts are fused with other inputs, and else nothing.
    keep_folds
        Write the heads of the folds too, so that `evaluate` reports how each of them does on another data set.
    device
        Where heads are fitted: ``cpu``, ``cuda``, or ``auto`` for a GPU where one is there and worthwhile; see
        `headwater.heads`.
    allow_leakage
        Reason to accept identical images, near duplicates or divided groups across train and test (otherwise refused).
        ``metrics.json`` records it.
    protocol, selection
        How the head is evaluated, and which samples are used.
    out
        The run directory to write; by default none is written.
    progress
        Where events go: None for nowhere, True for standard error, or a callable; see `headwater.Event`.
    options
        Any field of `headwater.Protocol` or `headwater.Selection` by its name, such as ``groups="patient"``,
        ``folds=10``, ``calibrate="isotonic"`` or ``where="age > 50"``.

    Returns
    -------
    Run

    Raises
    ------
    InputError, SplitError, HeadError, StoreError
        Each with one line that says what, where and what to do.
    """
    target = run_folder(out)
    protocol, selection = with_options("fit_head", options, protocol or Protocol(), selection or Selection())
    protocol.refuse()  # before a head is looked up by the task
    asked = FitOptions(
        features=require_names("--features", features),
        labels=labels_of(label, protocol),
        head=HeadChoice.under(protocol, head, params or {}, device=device),
        params=dict(params or {}),
        protocol=protocol,
        selection=with_merge(selection),
        controls=controls,
        keep_folds=keep_folds,
        allow_leakage=allow_leakage,
        prompts=prompts,
    )
    asked.refuse()
    opened = store if isinstance(store, Store) else open_store(store)
    return asked.on(opened).run(target, progress_to(progress))


def fit_separately(
    store: str | Path | Store,
    column: str,
    *,
    out: str | Path,
    selection: Selection | None = None,
    progress: Progress | bool | None = None,
    **options: Any,
) -> dict[str, Run]:
    """Run the whole protocol of `fit_head` separately for each value of a column, such as the magnification.

    Parameters
    ----------
    store
        A store, or its path.
    column
        The column whose values divide the samples.
    out
        The folder to write: a run for each value, named by it, and ``family.json``. `table` shows such a folder as one
        system with levels.
    selection
        As in `fit_head`; its ``where`` selects samples before they are divided.
    progress
        Where events go: None for nowhere, True for standard error, or a callable; see `headwater.Event`.
    options
        Arguments of `fit_head`.

    Returns
    -------
    dict of str to Run
        The runs, by value.

    Raises
    ------
    InputError, SplitError, HeadError, StoreError
        Each with one line that says what, where and what to do, and for which value.
    """
    say = progress_to(progress)
    selection = selection or Selection()
    where = options.pop("where", selection.where)
    opened = store if isinstance(store, Store) else open_store(store)
    require_column(opened, column, "--separately")
    folder = require_writable(out)
    if folder.is_file() or (folder / "config.json").exists():
        raise InputError(f"--out {folder} holds something else. Give another folder.")
    values = sorted(set(opened.select(where)[column].drop_nulls().cast(pl.String).to_list()), key=natural)
    names = {value: re.sub(r"[^\w.-]+", "_", value).strip(".") or "_" for value in values}
    folders = [name.casefold() for name in names.values()]
    if len(set(folders)) < len(folders) or {FAMILY, "config.json"} & set(folders):
        raise InputError(f"--separately {column}: its values do not give distinct folder names. Rename some of them.")
    if not values:
        raise InputError(f"--separately {column} is empty in all samples.")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FAMILY).write_text(to_json({"separately": column, "runs": names}))
    runs = {}
    quoted = column.replace('"', '""')
    for value in values:
        say(f"{column} {value}")
        here = f"""CAST("{quoted}" AS VARCHAR) = '{value.replace("'", "''")}'"""
        chosen = replace(selection, where=here if where is None else f"({where}) AND {here}")
        try:
            runs[value] = fit_head(opened, out=folder / names[value], selection=chosen, progress=progress, **options)
        except HeadwaterError as error:
            raise type(error)(f"{column} {value}: {error}") from error
    return runs
