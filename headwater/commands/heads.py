"""Commands that fit and judge heads: fit-head, sweep, zero-shot, evaluate, compare, explain, plot."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from headwater.commands import options as o
from headwater.commands.options import mapping_of, option, params_of, params_of_heads
from headwater.commands.output import show, warn_of_code


def fit_head(
    store: o.Store,
    features: o.Features,
    label: o.MaybeLabel = None,
    time: o.Time = None,
    event: o.Event = None,
    label_separator: o.Separator = None,
    where: o.Where = None,
    bags: o.Bags = None,
    views: o.Views = None,
    missing: Annotated[
        Literal["drop", "keep"], option(panel=o.DATA, help="What to do with samples that lack one of the features.")
    ] = "drop",
    samples_with: Annotated[
        list[str] | None,
        option(panel=o.DATA, metavar="NAME/MODALITY", help="Use only samples that have these features too; repeat."),
    ] = None,
    missing_values: o.MissingValues = None,
    positive: o.PositiveClass = None,
    merge: o.Merge = None,
    groups: o.Groups = None,
    folds: o.Folds = None,
    split: o.Split = None,
    holdout: o.Holdout = None,
    seed: o.Seed = 0,
    seeds: o.Seeds = 1,
    allow_leakage: o.Leakage = None,
    head: o.Head = None,
    task: o.TaskOption = "auto",
    order: o.Order = None,
    set_: o.SetParam = None,
    prompts: Annotated[
        Path | None,
        option(panel=o.HEAD, metavar="FILE.toml", help="Texts of each class, for --head gda, tip-adapter and similar."),
    ] = None,
    inner_folds: o.InnerFolds = 4,
    trials: o.Trials = None,
    halving: o.Halving = True,
    fine: Annotated[
        bool, option("--fine", panel=o.HEAD, help="After the grid, try 12 more penalties around the best.")
    ] = False,
    shots: Annotated[
        int | None, option(panel=o.HEAD, min=1, help="Train on this many rows of each class, drawn in each fold.")
    ] = None,
    draws: Annotated[int | None, option(panel=o.HEAD, min=1, help="How often to draw them.")] = None,
    calibrate: o.Calibrate = None,
    sensitivity: o.Sensitivity = None,
    specificity: o.Specificity = None,
    conformal: o.Conformal = None,
    conformal_per_class: o.PerClass = False,
    prevalence: o.Prevalence = None,
    risk_groups: o.RiskGroups = None,
    by: o.By = None,
    per: o.Per = None,
    aggregate: o.Aggregated = None,
    separately: Annotated[
        str | None,
        option(
            panel=o.SPLIT, metavar="COL", help="Fit and evaluate each value of this column by itself, into OUT/VALUE."
        ),
    ] = None,
    keep_folds: Annotated[
        bool, option("--keep-folds", panel=o.OUTPUT, help="Keep the heads of the folds too, for evaluate.")
    ] = False,
    controls: Annotated[
        bool | None,
        option(
            "--controls/--no-controls",
            panel=o.REPORT,
            help="Also evaluate each input alone, shuffled inputs and random ones, on the same splits. Default: the "
            "first two, where texts from a template are fused with other inputs.",
        ),
    ] = None,
    text_ablation: Annotated[
        bool,
        option(
            "--text-ablation",
            panel=o.REPORT,
            help="The same, and texts from a template without each of its columns, embedded again.",
        ),
    ] = False,
    device: o.Device = "auto",
    out: o.Out = None,
    json: o.Json = False,
) -> None:
    """Fit a head on stored features.

    Parameters are selected inside the training rows of each fold; results are for rows that were never seen.

    Example:
      headwater fit-head scans.hw --features vit/image --label density --groups patient --out runs/density
    """
    given = dict(locals())
    from headwater import api
    from headwater._options import picked
    from headwater.errors import InputError
    from headwater.evaluate.options import Protocol
    from headwater.samples.selection import Selection

    o.require_label(label, task)
    asked: dict[str, Any] = {
        "features": features,
        "label": label,
        "head": head,
        "params": params_of(set_ or []),
        "prompts": prompts,
        "controls": "ablation" if text_ablation else controls,
        "keep_folds": keep_folds,
        "device": device,
        "allow_leakage": allow_leakage,
        "protocol": picked(Protocol, given),
        "selection": picked(Selection, given, merge=mapping_of("--merge", merge or [])),
        "progress": True,
    }
    if separately is None:
        run = api.fit_head(store, out=out, **asked)
        show(run.lines(), run.metrics, json)
        return
    if out is None:
        raise InputError("--separately writes a run for each value: name a folder for them with --out.")
    runs = api.fit_separately(store, separately, out=out, **asked)
    show(api.table([out]).lines(), {value: run.metrics for value, run in runs.items()}, json)


def sweep(
    store: o.Store,
    features: Annotated[
        list[str],
        option(panel=o.DATA, metavar="NAME/MODALITY[+…]", help="Inputs; join several by +, repeat for others."),
    ],
    out: Annotated[Path, option(panel=o.OUTPUT, metavar="DIR", help="Where to write leaderboard, trials and runs.")],
    label: o.MaybeLabel = None,
    time: o.Time = None,
    event: o.Event = None,
    label_separator: o.Separator = None,
    where: o.Where = None,
    bags: o.Bags = None,
    views: o.Views = None,
    missing_values: o.MissingValues = None,
    positive: o.PositiveClass = None,
    merge: o.Merge = None,
    groups: o.Groups = None,
    folds: o.Folds = None,
    split: o.Split = None,
    holdout: o.Holdout = None,
    seed: o.Seed = 0,
    seeds: o.Seeds = 1,
    allow_leakage: o.Leakage = None,
    heads: Annotated[
        list[str] | None,
        option(
            panel=o.HEAD,
            metavar="KIND",
            help="Kind of head; repeat. Default: linear; ridge for numbers, cox for survival, ordinal for grades.",
        ),
    ] = None,
    task: o.TaskOption = "auto",
    order: o.Order = None,
    set_: Annotated[
        list[str] | None,
        option("--set", panel=o.HEAD, metavar="HEAD.PARAM=VALUE", help="A parameter, or a list to search; repeat."),
    ] = None,
    grid: Annotated[
        Path | None, option(panel=o.HEAD, metavar="FILE.toml", help="The same from a file, a table for each head.")
    ] = None,
    inner_folds: o.InnerFolds = 4,
    trials: o.Trials = None,
    halving: o.Halving = True,
    report_each: Annotated[
        list[str] | None,
        option(
            panel=o.REPORT, metavar="[HEAD.]PARAM", help="Report each value of this list as a row of its own; repeat."
        ),
    ] = None,
    metric: Annotated[
        str | None,
        option(panel=o.REPORT, metavar="METRIC", help="What the leaderboard is sorted by. Default: AUC."),
    ] = None,
    by: o.By = None,
    per: o.Per = None,
    aggregate: o.Aggregated = None,
    device: o.Device = "auto",
    json: o.Json = False,
) -> None:
    """Compare inputs, heads and settings.

    All of them are evaluated on the same splits, in a leaderboard; the same command goes on where it stopped.

    Example:
      headwater sweep scans.hw --features vit/image --label density --heads linear --heads mlp --out sweep
    """
    given = dict(locals())
    from headwater import api
    from headwater._options import picked
    from headwater.evaluate.options import Protocol
    from headwater.samples.selection import Selection

    o.require_label(label, task)
    done = api.sweep(
        store,
        features=features,
        label=label,
        out=out,
        heads=heads,
        params=params_of_heads(set_ or []),
        grid=grid,
        report_each=report_each,
        metric=metric,
        device=device,
        allow_leakage=allow_leakage,
        protocol=picked(Protocol, given),
        selection=picked(Selection, given, merge=mapping_of("--merge", merge or [])),
        progress=True,
    )
    show(done.lines(), done.to_dict(), json)


def compare(
    runs: Annotated[list[Path], o.typer.Argument(metavar="RUN RUN …", help="Run directories on the same samples.")],
    metric: Annotated[
        str | None, option(panel=o.REPORT, metavar="METRIC", help="What to compare. Default: the AUC.")
    ] = None,
    per: Annotated[
        str | None,
        option(panel=o.REPORT, metavar="COL", help="Compare at this level: the runs' --per or --groups column."),
    ] = None,
    aggregate: o.Aggregated = None,
    margin: Annotated[
        float | None,
        option(panel=o.REPORT, metavar="LOSS", help="Test for non-inferiority: the largest loss that does not matter."),
    ] = None,
    positive: o.PositiveClass = None,
    level: o.Level = 0.95,
    draws: o.Draws = 2000,
    seed: o.Seed = 0,
    json: o.Json = False,
) -> None:
    """Test whether runs differ.

    Confidence intervals by patient, paired differences, and each test that applies.

    Example:
      headwater compare runs/image runs/image-and-text
    """
    from headwater import api

    found = api.compare(
        runs,
        metric=metric,
        per=per,
        aggregate=aggregate,
        margin=margin,
        positive=positive,
        level=level,
        n_draws=draws,
        seed=seed,
    )
    show(found.lines(), found.to_dict(), json)


def table(
    runs: Annotated[list[Path], o.typer.Argument(metavar="RUN …", help="Runs, or folders of runs such as a sweep's.")],
    name: Annotated[
        list[str] | None, option(panel=o.REPORT, metavar="NAME", help="What to call each system, in order; repeat.")
    ] = None,
    metric: Annotated[
        list[str] | None,
        option(panel=o.REPORT, metavar="METRIC", help="A column; repeat. Default: those that papers report."),
    ] = None,
    by: Annotated[
        bool, option("--by", panel=o.REPORT, help="A row for each subgroup of the runs' --by column.")
    ] = False,
    per: Annotated[bool, option("--per", panel=o.REPORT, help="Results by unit, of the runs' --per.")] = False,
    pairs: Annotated[
        bool, option("--pairs", panel=o.REPORT, help="Compare all pairs: corrected t and Wilcoxon's test over folds.")
    ] = False,
    intervals: Annotated[bool, option("--intervals", panel=o.REPORT, help="Show confidence intervals too.")] = False,
    costs: Annotated[
        bool, option("--costs", panel=o.REPORT, help="Show trained parameters, seconds and peak memory.")
    ] = False,
    format_: Annotated[
        Literal["md", "csv", "latex", "json"] | None,
        option("--format", panel=o.OUTPUT, help="Print for a paper or a script. Default: for the terminal."),
    ] = None,
    json: o.Json = False,
) -> None:
    """Put runs side by side, as a paper does.

    Mean and standard deviation over folds of each metric, by system and level.

    Example:
      headwater table runs/resnet runs/vlm --pairs --format latex
    """
    from headwater import api

    found = api.table(
        runs,
        names=name or None,
        metrics=metric or None,
        by=by,
        per=per,
        pairs=pairs,
        intervals=intervals,
        costs=costs,
    )
    if format_ is not None and not json:
        print(found.text(format_), end="")
    else:
        show(found.lines(), found.to_dict(), json)


def cohort(
    store: o.Store,
    column: Annotated[
        list[str], option(panel=o.DATA, metavar="COL", help="A column to describe, such as the label or age; repeat.")
    ],
    where: o.Where = None,
    missing_values: o.MissingValues = None,
    groups: o.Groups = None,
    by: Annotated[
        str | None, option(panel=o.REPORT, metavar="COL", help="Divide by this column, such as the split or the site.")
    ] = None,
    format_: Annotated[
        Literal["md", "csv", "latex", "json"] | None,
        option("--format", panel=o.OUTPUT, help="Print for a paper or a script. Default: for the terminal."),
    ] = None,
    json: o.Json = False,
) -> None:
    """Describe the patients and samples of a store.

    The first table of a paper: counts and shares, medians and ranges, overall and by site or split.

    Example:
      headwater cohort scans.hw --column density --column age --groups patient --by site
    """
    from headwater import api

    found = api.cohort(store, column, by=by, groups=groups, where=where, missing_values=missing_values)
    if format_ is not None and not json:
        print(found.text(format_), end="")
    else:
        show(found.lines(), found.to_dict(), json)


def evaluate(
    run: Annotated[Path, o.typer.Argument(metavar="RUN", help="The run directory whose head is tested.")],
    store: Annotated[str, o.typer.Argument(metavar="STORE", help="The store of the other data set.")],
    label: o.MaybeLabel = None,
    time: o.Time = None,
    event: o.Event = None,
    features: Annotated[
        list[str] | None,
        option(panel=o.DATA, metavar="NAME/MODALITY", help="Features, where they have other names in this store."),
    ] = None,
    map_: Annotated[
        list[str] | None,
        option(
            "--map",
            panel=o.DATA,
            metavar="LABEL=CLASS|FILE",
            help="What labels of this data set mean in the run; LABEL= leaves samples out. Repeat.",
        ),
    ] = None,
    label_separator: o.Separator = None,
    where: o.Where = None,
    missing_values: o.MissingValues = None,
    positive: o.PositiveClass = None,
    allow_leakage: Annotated[
        str | None,
        option(
            panel=o.DATA,
            metavar="REASON",
            help="Reason to accept samples that the head was fitted on (otherwise they are refused).",
        ),
    ] = None,
    groups: o.Resampled = None,
    by: o.By = None,
    per: o.Per = None,
    aggregate: o.Aggregated = None,
    level: o.Level = 0.95,
    draws: o.Draws = 2000,
    seed: o.Seed = 0,
    device: o.Device = "auto",
    out: o.Out = None,
    json: o.Json = False,
) -> None:
    """Test a fitted head on another data set.

    The head stays as it is; the drop in each metric is reported with its interval.

    Example:
      headwater evaluate runs/density other-hospital.hw --label density --groups patient
    """
    given = dict(locals())
    from headwater import api
    from headwater.samples.selection import WITHOUT_FIT

    made = api.evaluate(
        run,
        store,
        label=label,
        time=time,
        event=event,
        features=features,
        mapping=mapping_of("--map", map_ or []),
        level=level,
        n_draws=draws,
        device=device,
        allow_leakage=allow_leakage,
        out=out,
        progress=True,
        **{name: given[name] for name in WITHOUT_FIT},
    )
    show(made.lines(), made.metrics, json)


def plot(
    runs: Annotated[
        list[Path], o.typer.Argument(metavar="RUN …", help="A run; or several runs or folders of runs, side by side.")
    ],
    name: Annotated[
        list[str] | None, option(panel=o.REPORT, metavar="NAME", help="What to call each of several runs; repeat.")
    ] = None,
    metric: Annotated[
        str | None, option(panel=o.REPORT, metavar="METRIC", help="What to draw of several runs. Default: the AUC.")
    ] = None,
    positive: o.PositiveClass = None,
    dpi: Annotated[int, option(panel=o.OUTPUT, min=1, help="Resolution of PNG files, in dots per inch.")] = 300,
    out: Annotated[
        Path | None, option(panel=o.OUTPUT, metavar="DIR", help="Where to write. Default: figures/ in the run.")
    ] = None,
    json: o.Json = False,
) -> None:
    """Draw a run: calibration, ROC, confusion.

    Writes PNG and SVG; of regressions, predicted against true numbers. Of several runs: a metric of each with its
    interval, by level where there are levels, and box plots over folds.

    Example:
      headwater plot runs/density
    """
    from headwater._checks import refuse_idle
    from headwater.errors import InputError
    from headwater.report import plot as plot_run
    from headwater.report import plot_systems

    if len(runs) == 1 and (runs[0] / "metrics.json").exists():
        refuse_idle({"--name": bool(name), "--metric": metric is not None}, "goes with several runs.")
        drawn = plot_run(runs[0], out=out, positive=positive, dpi=dpi)
    elif len(runs) == 1 and not runs[0].is_dir():
        drawn = plot_run(runs[0], out=out, positive=positive, dpi=dpi)  # says that no run is there
    else:
        refuse_idle({"--positive": positive is not None}, "goes with a single run.")
        if out is None:
            raise InputError("--out: name a folder for the figures of several runs.")
        drawn = plot_systems(runs, out=out, names=name or None, metric=metric, dpi=dpi)
    show(drawn.lines(), drawn.to_dict(), json)


def explain(
    run: Annotated[Path, o.typer.Argument(metavar="RUN", help="A run of fit-head.")],
    id: Annotated[str, option(panel=o.DATA, metavar="ID", help="The sample to explain.")],
    store: Annotated[str | None, option(panel=o.DATA, metavar="STORE", help="Another store than the run's.")] = None,
    target: Annotated[
        str | None, option("--class", panel=o.HEAD, metavar="CLASS", help="The class. Default: the likeliest.")
    ] = None,
    method: Annotated[
        Literal["gradient", "occlusion", "attention"], option(panel=o.HEAD, help="How relevance is measured.")
    ] = "gradient",
    out: Annotated[
        Path | None, option(panel=o.OUTPUT, metavar="FILE.png", help="Draw the image under a heat map.")
    ] = None,
    json: o.Json = False,
) -> None:
    """Show what in a sample supports a class.

    Uses stored tokens: parts of an image, and words.

    Example:
      headwater explain runs/attention --id case-12 --out case-12.png
    """
    from headwater import api

    found = api.explain(run, id=id, target=target, method=method, store=store, out=out)
    show(found.lines(), found.to_dict(), json)


def zero_shot(
    store: o.Store,
    features: Annotated[str, option(panel=o.DATA, metavar="NAME", help="Name of the dual encoder in the store.")],
    prompts: Annotated[
        Path, option(panel=o.HEAD, metavar="FILE.toml", help="Templates and descriptors of each class.")
    ],
    label: o.Label,
    label_separator: o.Separator = None,
    merge: o.Merge = None,
    where: o.Where = None,
    missing_values: o.MissingValues = None,
    positive: o.PositiveClass = None,
    transductive: Annotated[
        bool,
        option("--transductive", panel=o.HEAD, help="Classify all samples together; their labels are not used."),
    ] = False,
    weights: o.Weights = None,
    trust_remote_code: o.Trust = False,
    device: o.Device = "auto",
    ablate: Annotated[
        bool, option("--ablate", panel=o.REPORT, help="Measure the effect of each template and descriptor.")
    ] = False,
    metric: Annotated[
        str | None, option(panel=o.REPORT, metavar="METRIC", help="What to sort them by. Default: the AUC.")
    ] = None,
    by: o.By = None,
    per: o.Per = None,
    aggregate: o.Aggregated = None,
    groups: o.Resampled = None,
    draws: o.Draws = 2000,
    seed: o.Seed = 0,
    out: o.Out = None,
    json: o.Json = False,
) -> None:
    """Classify images by prompts, without training.

    Example:
      headwater zero-shot scans.hw --features clip --prompts prompts.toml --label finding
    """
    given = dict(locals())
    from headwater import api
    from headwater.samples.selection import WITHOUT_FIT

    warn_of_code(trust_remote_code)
    run = api.zero_shot(
        store,
        features=features,
        prompts=prompts,
        label=label,
        transductive=transductive,
        ablate=ablate,
        metric=metric,
        n_draws=draws,
        weights=weights,
        device=device,
        trust_remote_code=trust_remote_code,
        out=out,
        progress=True,
        merge=mapping_of("--merge", merge or []),
        **{name: given[name] for name in WITHOUT_FIT},
    )
    show(run.lines(), run.metrics, json)
