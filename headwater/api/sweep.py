"""sweep: encoders x heads x settings, on the same splits, to a leaderboard."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from headwater._progress import progress_bar
from headwater._reading import read_json, read_regular
from headwater._shown import Shown
from headwater._writable import require_writable
from headwater.errors import HeadwaterError, InputError, nearest
from headwater.evaluate.aggregate import How
from headwater.evaluate.bootstrap import METRICS, default_metric
from headwater.evaluate.labelling import Labelling
from headwater.evaluate.options import Asked, Protocol
from headwater.experiment.fit import DEFAULT_HEAD, Fitting, Planned
from headwater.experiment.head import Chosen
from headwater.experiment.leaderboard import Cell, lines_of, ranked
from headwater.runs.places import PLACES, seen_from
from headwater.runs.run import read_results
from headwater.runs.write import parquet, to_json
from headwater.samples.inputs import POOLED
from headwater.samples.label_names import mapping_of
from headwater.samples.missing import missing_rule
from headwater.store import Store, open_store

COMMAND = "sweep"
COSTS = {  # what a head's own grid takes beside that of linear, roughly: cheap heads go first, and time left begins so
    "linear": 1,
    "ridge": 1,
    "prototypes": 2,
    "knn": 6,
    "token-mlp": 20,
    "mil": 20,
    "xgboost": 55,
    "self-attention": 130,
    "merged-attention": 130,
    "cross-attention": 130,
    "co-attention": 200,
    "mlp": 230,
}
OTHER_COST = 300
ABOUT_SAMPLES = (
    "left_out",
    "class_counts",
    "positive",
    "missing_values",
    "warnings",
)  # of metrics: the same in every cell
LATER = ("classes", "environment", "view_levels")  # of a run's config, known when it has run, or not its own


@dataclass(frozen=True, repr=False)
class Sweep(Shown):
    """A finished sweep.

    Attributes
    ----------
    path
        Its directory; each cell's run is in ``runs/`` below it.
    found
        What ``sweep.json`` holds: ``leaderboard``, ``picked`` (what choosing by inner folds alone gives), ``metric``
        and how intervals were made.
    leaderboard
        A row a cell, best first.
    trials
        A row for each setting of each cell that was tried on inner folds.
    """

    path: Path
    found: Mapping[str, Any]
    leaderboard: pl.DataFrame
    trials: pl.DataFrame

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return dict(self.found)

    def lines(self) -> list[str]:
        """Say in a few lines what came out."""
        settings = f"{len(self.trials):,} trials"
        return [*lines_of(self.found), f"leaderboard.csv, {settings} and {len(self.leaderboard)} runs in {self.path}"]


def sweep(
    store: str | Path | Store,
    *,
    features: Sequence[str],
    label: str | Sequence[str],
    out: str | Path,
    heads: str | Sequence[str] | None = None,
    task: Asked = "auto",
    params: Mapping[str, Mapping[str, Any]] | None = None,
    grid: str | Path | None = None,
    trials: int | None = None,
    metric: str | None = None,
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
    per: str | None = None,
    aggregate: How | None = None,
    label_separator: str | None = None,
    merge: Mapping[str, str | None] | str | Path | None = None,
    missing_values: str | Sequence[str] | None = None,
    positive: str | None = None,
    allow_leakage: str | None = None,
    progress: bool = False,
) -> Sweep:
    """Evaluate every combination of inputs and head on the same samples and splits, settings being selected in each.

    Each cell is a run, as `fit_head` makes it with ``samples_with`` set to all features of the sweep. Cheap heads come
    first. The same call goes on where an earlier one was stopped.

    Parameters
    ----------
    store
        A store, or where it is.
    features
        Inputs, each a feature set ``NAME/MODALITY``, or several joined by ``+``.
    label
        As `fit_head` has it.
    out
        The directory to write: ``leaderboard.parquet`` and ``.csv``, ``trials.parquet``, ``sweep.json``, and ``runs/``.
    heads
        Kinds of heads; ``linear``, or ``ridge`` for regression, when left out. One that needs two inputs is left out
        where there is one.
    task
        As `fit_head` has it.
    params
        Parameters by kind of head; a list of values is searched, as in `fit_head`.
    grid
        A TOML file with a table a kind of head: more such parameters.
    trials
        Let Optuna propose that many settings for each set of training rows, in place of grids.
    metric
        What the leaderboard is sorted by; the AUC (macro, for labels), or r2 for regression, when left out.
    groups, folds, split, holdout, where, by, seed, seeds, inner_folds, bags, views, per, aggregate, label_separator, \
merge, missing_values, positive, allow_leakage
        As `fit_head` has them.
    progress
        Show how far it is.

    Returns
    -------
    Sweep

    Raises
    ------
    InputError, SplitError, HeadError, StoreError, MissingExtra
        Each with one line that says what, where and what to do.
    """
    require_writable(out)
    opened = store if isinstance(store, Store) else open_store(store)
    sets = list(dict.fromkeys(_names(part) for part in ([features] if isinstance(features, str) else features)))
    heads = heads or DEFAULT_HEAD[task == "regression"]
    kinds = [heads] if isinstance(heads, str) else list(dict.fromkeys(heads))
    protocol = Protocol(
        task=task,
        groups=groups,
        folds=folds,
        split=split,
        holdout=holdout,
        by=by,
        seed=seed,
        seeds=seeds,
        inner_folds=inner_folds,
        per=per,
        aggregate=aggregate,
        labelling=Labelling.of(missing_values, positive),
    )
    means = mapping_of(merge, "--merge")
    of_heads = _parameters(params or {}, grid, kinds)
    every = tuple(dict.fromkeys(name.removesuffix(POOLED) for names in sets for name in names))
    plans: dict[str, Planned] = {}
    skipped: list[dict[str, str]] = []
    for kind in sorted(kinds, key=_cost):
        chosen = Chosen.of(
            kind, of_heads.get(kind, {}), trials, regression=protocol.regression, option=f"--set {kind}."
        )
        if chosen.head().takes_texts:
            raise InputError(
                f"--heads {kind} wants prompts, which a sweep does not take: run fit-head --prompts for it."
            )
        for names in sets:
            if len(names) < chosen.head().least_inputs and views is None:
                why = f"it needs {chosen.head().least_inputs} inputs"
                skipped.append({"features": "+".join(names), "head": kind, "why": why})
                continue
            own = {name.removesuffix(POOLED) for name in names}
            fitting = Fitting(
                features=names,
                labels=(label,) if isinstance(label, str) else tuple(dict.fromkeys(label)),
                label_separator=label_separator,
                merge=means,
                params=of_heads.get(kind, {}),
                chosen=chosen,
                protocol=protocol,
                where=where,
                bags=bags,
                views=views,
                missing="drop",
                samples_with=tuple(name for name in every if name not in own),
                controls=False,
                allow_leakage=allow_leakage,
                prompts=None,
            )
            fitting.refuse()
            plans[_cell_name(names, kind)] = fitting.on(opened)
    if not plans:
        raise InputError(f"nothing to sweep: {kinds[0]} needs two inputs. Join them, as in --features A/image+B/text.")
    folder = _begun(Path(out), plans)
    _run(folder, plans, progress)
    cells = [
        Cell(name, plan.asked.features, plan.asked.chosen.kind, read_results(folder / "runs" / name))
        for name, plan in plans.items()
    ]
    return _finished(folder, cells, metric, seed, skipped)


def _names(part: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in part.split("+"))
    if not all(names) or len(set(names)) < len(names):
        raise InputError(f"--features {part}: write NAME/MODALITY, or several different ones joined by +.")
    return names


def _cost(kind: str) -> int:
    return COSTS.get(kind, OTHER_COST)


def _seconds_left(taken: Sequence[tuple[str, float]], left: Sequence[str]) -> float:
    """Estimate how long the cells take that are left, by kind of head.

    A kind that has run takes as long again; one that has not is set against those that have, by `COSTS`.

    Examples
    --------
    >>> _seconds_left([("linear", 2.0), ("linear", 4.0)], ["linear", "knn"])
    21.0
    """
    pace = sum(seconds for _, seconds in taken) / sum(_cost(kind) for kind, _ in taken)
    seen: dict[str, list[float]] = {}
    for kind, seconds in taken:
        seen.setdefault(kind, []).append(seconds)
    return sum(sum(seen[kind]) / len(seen[kind]) if kind in seen else pace * _cost(kind) for kind in left)


def _cell_name(names: Sequence[str], kind: str) -> str:
    """Return the name of a cell's directory.

    Examples
    --------
    >>> _cell_name(["vit/image", "bert/text:pooled"], "mlp")
    'vit-image+bert-text-pooled.mlp'
    """
    return f"{'+'.join(names).replace('/', '-').replace(':', '-')}.{kind}"


def _parameters(
    params: Mapping[str, Mapping[str, Any]], grid: str | Path | None, kinds: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Return parameters by kind of head, from both places."""
    out: dict[str, dict[str, Any]] = {}
    for source, given in (("--set", params), (f"--grid {grid}", {} if grid is None else _read_grid(Path(grid)))):
        for kind, values in given.items():
            if kind not in kinds:
                raise InputError(f"{source}: {kind!r} is none of --heads.{nearest(kind, kinds)}")
            if not isinstance(values, Mapping):
                raise InputError(f"{source}: {kind} must be a table of parameters.")
            twice = sorted(set(values) & set(out.get(kind, {})))
            if twice:
                raise InputError(f"{source}: {kind}.{twice[0]} is given by --set too. Give it once.")
            out.setdefault(kind, {}).update(values)
    return out


def _read_grid(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_regular(path).decode())
    except FileNotFoundError as error:
        raise InputError(f"--grid {path}: no such file.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"--grid {path} is not TOML: {error}.") from error


# On disk


def _begun(folder: Path, plans: Mapping[str, Planned]) -> Path:
    """Return the directory of a sweep, made or found; refuse one that holds anything else."""
    config = _config(plans)
    there = folder / "config.json"
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out {folder} is a file. Give another path.")
    if there.exists():
        earlier = _json(there)
        if earlier.get("command") != COMMAND:
            raise InputError(f"--out {folder} holds something that is not a sweep. Give another path.")
        # a store may have been moved: its features and samples, by their digests, are compared
        names = dict.fromkeys([*config, *earlier])
        if "missing_values" not in earlier and _has_none_missing(next(iter(plans.values()))):
            del names["missing_values"]  # an older headwater knew no such words, and here there are none
        differ = [name for name in names if name not in PLACES and config.get(name) != earlier.get(name)]
        if differ and any(_cells_there(folder)):
            raise InputError(
                f"--out {folder} holds a sweep with other {', '.join(differ)}. Give another path, or what it was "
                "begun with."
            )
    elif folder.exists() and any(not path.name.startswith(".") for path in folder.iterdir()):
        raise InputError(f"--out {folder} holds something that is not a sweep. Give another path.")
    for unfinished in (folder / "runs").glob(".*.tmp"):
        shutil.rmtree(unfinished)
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    _write(there, to_json(seen_from(folder, config)).encode())
    return folder


def _cells_there(folder: Path) -> Iterator[Path]:
    """Yield the runs of a sweep that have ended."""
    return (path for path in (folder / "runs").glob("*/metrics.json") if not path.parent.name.startswith("."))


def _has_none_missing(plan: Planned) -> bool:
    """Whether the columns that are used hold no word for a missing value, and no blanks at the ends of words."""
    asked = plan.asked
    rule = missing_rule(asked.protocol, asked.labels, asked.label_separator, plan.store.roles.id)
    table = plan.store.select(asked.where).select(rule.columns)
    return rule.tidied(table).equals(table)


def _config(plans: Mapping[str, Planned]) -> dict[str, Any]:
    """Return what a sweep is made of: what its cells share, what they differ in, and what is known of the samples."""
    configs = {name: plan.config for name, plan in plans.items()}
    first = next(iter(configs.values()))
    own = ("command", "features", "head", "params", "tokens", "samples_with")
    every = {name: spec for config in configs.values() for name, spec in config["features"].items()}
    plan = next(iter(plans.values()))
    config = {
        "command": COMMAND,
        "features": every,
        "heads": {config["head"]: config["params"] for config in configs.values()},
        **{name: value for name, value in first.items() if name not in own},
        "cells": list(plans),
        "samples": _digest(plan),
    }
    plain: dict[str, Any] = json.loads(to_json(config))
    return plain


def _digest(plan: Planned) -> str:
    """Return a word that changes when the samples, their labels or their groups do."""
    asked = plan.asked
    made_of = [name for name in (asked.bags, asked.views) if name is not None]
    columns = dict.fromkeys([plan.store.roles.id, *plan.used, *made_of])
    table = plan.store.select(asked.where).select(list(columns))
    return hashlib.blake2b(table.write_ndjson().encode(), digest_size=16).hexdigest()


def _run(folder: Path, plans: Mapping[str, Planned], progress: bool) -> None:
    """Run the cells that are not there yet."""
    left = {name: plan for name, plan in plans.items() if not _is_finished(folder / "runs" / name, plan)}
    with progress_bar("sweep", len(left), unit="cells", show=progress) as update:
        kinds = [plan.asked.chosen.kind for plan in left.values()]
        taken: list[tuple[str, float]] = []
        for done, (name, plan) in enumerate(left.items(), 1):
            start = time.monotonic()
            try:
                plan.run(folder / "runs" / name, _silent, inner_always=True)
            except HeadwaterError as error:
                raise type(error)(f"{name}: {error}") from error
            taken.append((plan.asked.chosen.kind, time.monotonic() - start))
            update(done, left=_seconds_left(taken, kinds[done:]))


def _silent(line: str) -> None:
    """Say nothing of a cell's steps."""


def _is_finished(path: Path, plan: Planned) -> bool:
    """Whether a cell has been run, with this configuration."""
    if not (path / "metrics.json").exists():
        return False
    later = (*LATER, *PLACES)
    config = {name: value for name, value in _json(path / "config.json").items() if name not in later}
    wanted = {name: value for name, value in json.loads(to_json(plan.config)).items() if name not in later}
    config.setdefault("positive", None)  # what an older headwater went by
    if "missing_values" not in config:  # of an older headwater, whose sweep `_begun` has let go on
        del wanted["missing_values"]
    return config == wanted and read_results(path).trials is not None


def _finished(
    folder: Path, cells: Sequence[Cell], metric: str | None, seed: int, skipped: Sequence[Mapping[str, str]]
) -> Sweep:
    """Rank what was found, and write it."""
    task = cells[0].results.metrics["task"]
    metric = metric or default_metric(task, [cell.results.metrics["mean"] for cell in cells])
    if metric not in METRICS[task]:
        known = METRICS[task]
        raise InputError(f"--metric {metric!r}.{nearest(metric, known)} For {task} there are: {', '.join(known)}.")
    found = {
        **ranked(cells, metric, seed),
        **{name: cells[0].results.metrics[name] for name in ABOUT_SAMPLES if name in cells[0].results.metrics},
        "skipped": list(skipped),
    }
    leaderboard = pl.DataFrame(found["leaderboard"], infer_schema_length=None)
    trials = pl.concat(
        [
            cell.tried.select(
                pl.lit(cell.name).alias("cell"),
                pl.lit("+".join(cell.features)).alias("features"),
                pl.lit(cell.head).alias("head"),
                pl.all(),
            )
            for cell in cells
        ]
    )
    _write(folder / "leaderboard.parquet", parquet(leaderboard))
    _write(folder / "leaderboard.csv", leaderboard.write_csv().encode())
    _write(folder / "trials.parquet", parquet(trials))
    _write(folder / "sweep.json", to_json(found).encode())
    return Sweep(folder, found, leaderboard, trials)


def _json(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(path: Path, content: bytes) -> None:
    """Replace a file as a whole."""
    beside = path.with_name(f".{path.name}.tmp")
    beside.write_bytes(content)
    beside.replace(path)
