"""The command line: parse, make one call, print."""

from __future__ import annotations

import errno
import gc
import math
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup


class _Group(TyperGroup):
    """The commands, with Ctrl-C answered here: what click and typer make of it differs between versions."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _fail("stopped. What was finished is kept: run the same command again to go on.", 130)


app = typer.Typer(
    name="headwater",
    help="A feature store with lightweight heads: encoders run once, heads fit in seconds.",
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Store = Annotated[Path, typer.Argument(metavar="STORE", help="The store, a directory such as lung.hw.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Where = Annotated[str | None, typer.Option(metavar="SQL", help="Only samples for which this holds: 'age > 50'.")]
By = Annotated[str | None, typer.Option(metavar="COL", help="Give results for each value of this column too.")]
Out = Annotated[Path | None, typer.Option(metavar="RUN", help="The run directory to write.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Weights = Annotated[Path | None, typer.Option(metavar="FILE", help="A local state dict, safetensors or torch.")]
Layer = Annotated[
    str | None,
    typer.Option(metavar="LAYER", help="timm: stage3, or stage2,stage4; vision-language decoder: last, or a number."),
]
Pooling = Annotated[
    str | None, typer.Option(help="How a decoder's states make a vector: last-token, mean-image-tokens or mean.")
]
Prompt = Annotated[
    str | None, typer.Option(metavar="WORDS", help="What a decoder reads: words around {image} or {text}.")
]
Trust = Annotated[bool, typer.Option("--trust-remote-code", help="Run code that comes with a model, with your rights.")]
Leakage = Annotated[
    str | None, typer.Option(metavar="REASON", help="Go on though the split leaks; kept in metrics.json.")
]
Trials = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Select among N settings that Optuna proposes, not a grid.")
]
Seed = Annotated[int, typer.Option(min=0, help="The same seed gives the same result.")]


def main() -> None:
    """Run the command line; a user's error is one line and status 1."""
    from headwater.errors import HeadwaterError

    try:
        app(prog_name="headwater")
    except HeadwaterError as error:
        _fail(str(error), 1)
    except OSError as error:  # what the system refuses, wherever it does
        _fail(_refusal(error), 1)
    finally:
        if "torch" not in sys.modules:  # some of whose libraries count what is left, and complain
            gc.freeze()  # else the interpreter looks through all that was imported for cycles: a quarter second


def _fail(line: str, status: int) -> NoReturn:
    print(f"headwater: {' '.join(line.split())}", file=sys.stderr)
    sys.exit(status)


def _refusal(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{where}the disk is full. Free some space and run the same command again; what was finished is kept."
    return f"{where}{error.strerror or error}"


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"headwater {version('headwater')}")
        raise typer.Exit


@app.callback()
def start(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    """A feature store with lightweight heads: encoders run once, heads fit in seconds."""


def _show(lines: list[str], value: Any, as_json: bool) -> None:
    if as_json:
        import json

        print(json.dumps(_without_nan(value), indent=2, ensure_ascii=False, default=str, allow_nan=False))
    else:
        print("\n".join(lines))


def _without_nan(value: Any) -> Any:
    """Return a value with null in place of numbers that JSON has no words for: NaN and the infinities."""
    if isinstance(value, dict):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _warn_of_code(trusted: bool) -> None:
    if trusted:
        _say(
            "headwater: --trust-remote-code: code that came with the model will run with your rights: it can read, "
            "change and send whatever you can."
        )


@app.command()
def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where to write it.")] = Path("headwater-demo"),
    seed: Seed = 0,
) -> None:
    """Do everything once, on data made on the spot, without a network, in under a minute."""
    from headwater import api

    result = api.demo(out, seed=seed, progress=_say)
    print("\n".join(["", *result.lines(), "", f"Everything is in {result.out}. Next: headwater embed --help"]))


@app.command()
def embed(
    manifest: Annotated[
        Path, typer.Argument(metavar="MANIFEST", help="CSV, TSV, Parquet or JSON lines, or a folder a class.")
    ],
    store: Store,
    encoder: Annotated[str, typer.Option(metavar="SPEC", help="Such as timm:resnet34.a1_in1k or builtin:texture.")],
    weights: Weights = None,
    name: Annotated[str | None, typer.Option(help="What to call the features.")] = None,
    image: Annotated[str | None, typer.Option(metavar="COL", help="Column of image paths.")] = None,
    text: Annotated[str | None, typer.Option(metavar="COL", help="Column of texts.")] = None,
    id: Annotated[str | None, typer.Option(metavar="COL", help="Column of sample ids.")] = None,
    tokens: Annotated[str, typer.Option(metavar="none|all|N", help="Token features to store too.")] = "none",
    layer: Layer = None,
    pooling: Pooling = None,
    prompt: Prompt = None,
    dtype: Annotated[str, typer.Option(help="Stored type: float16 or float32.")] = "float16",
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")] = "auto",
    device: Device = "auto",
    trust_remote_code: Trust = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Items encoded together.")] = 32,
    workers: Annotated[int | None, typer.Option(min=1, help="Threads; one a core by default.")] = None,
    on_error: Annotated[str, typer.Option(metavar="skip|stop", help="What to do about an unreadable item.")] = "skip",
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try items again that failed before.")] = False,
    json: Json = False,
) -> None:
    """Run an encoder once over images and texts, and store the features."""
    from headwater import api

    _warn_of_code(trust_remote_code)
    done = api.embed(
        manifest,
        store,
        encoder=encoder,
        weights=weights,
        name=name,
        image=image,
        text=text,
        id=id,
        tokens=tokens,
        layer=layer,
        pooling=pooling,
        prompt=prompt,
        dtype=dtype,
        precision=precision,  # type: ignore[arg-type]
        device=device,
        trust_remote_code=trust_remote_code,
        batch_size=batch_size,
        workers=workers,
        on_error=on_error,
        retry_failed=retry_failed,
        progress=True,
    )
    _show(done.lines(), done.to_dict(), json)


@app.command()
def doctor(
    encoder: Annotated[
        str | None, typer.Option(metavar="SPEC", help="Load and try it: where from, what it makes, how fast.")
    ] = None,
    weights: Weights = None,
    tokens: Annotated[
        str | None, typer.Option(metavar="none|all|N", help="Token features; all by default where it makes any.")
    ] = None,
    layer: Layer = None,
    pooling: Pooling = None,
    prompt: Prompt = None,
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")] = "auto",
    device: Device = "auto",
    trust_remote_code: Trust = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Items encoded together.")] = 32,
    offline: Annotated[bool, typer.Option("--offline", help="Fetch nothing: prove that no network is needed.")] = False,
    json: Json = False,
) -> None:
    """Say what is installed, and prove before a long run that an encoder loads and works."""
    from headwater import api

    _warn_of_code(trust_remote_code)
    found = api.doctor(
        encoder=encoder,
        weights=weights,
        tokens=tokens,
        layer=layer,
        pooling=pooling,
        prompt=prompt,
        precision=precision,  # type: ignore[arg-type]
        device=device,
        trust_remote_code=trust_remote_code,
        batch_size=batch_size,
        offline=offline,
    )
    _show(found.lines(), found.to_dict(), json)


@app.command("fit-head")
def fit_head(
    store: Store,
    features: Annotated[list[str], typer.Option(metavar="NAME/MODALITY", help="Features; repeat for several inputs.")],
    label: Annotated[list[str], typer.Option(metavar="COL", help="Column to predict; repeat for several labels.")],
    head: Annotated[str, typer.Option(metavar="KIND", help="Kind of head.")] = "linear",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PARAM=VALUE", help="A parameter, or a list of values to select among; repeat."),
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(metavar="FILE.toml", help="Texts of each class, for --head tip-adapter and its like.")
    ] = None,
    groups: Annotated[str | None, typer.Option(metavar="COL|none", help="What a split must keep whole.")] = None,
    folds: Annotated[int | None, typer.Option(help="Folds of cross-validation; 5 by default.")] = None,
    split: Annotated[str | None, typer.Option(metavar="COL", help="Column with train/test or fold numbers.")] = None,
    bags: Annotated[str | None, typer.Option(metavar="COL", help="For --head mil: what samples are bags of.")] = None,
    missing: Annotated[str, typer.Option(metavar="drop|keep", help="Samples that lack one of the features.")] = "drop",
    holdout: Annotated[float | None, typer.Option(help="Share of samples to test once, instead of folds.")] = None,
    where: Where = None,
    by: By = None,
    label_separator: Annotated[str | None, typer.Option(help="Splits the label's text into several labels.")] = None,
    allow_leakage: Leakage = None,
    seed: Seed = 0,
    seeds: Annotated[int, typer.Option(min=1, help="Repeat all of it with so many seeds, from --seed on.")] = 1,
    shots: Annotated[int | None, typer.Option(min=1, help="Train on so many rows a class, drawn in each fold.")] = None,
    draws: Annotated[int | None, typer.Option(min=1, help="How often to draw them.")] = None,
    calibrate: Annotated[
        str | None, typer.Option(metavar="temperature|isotonic", help="Calibrate scores inside the training rows.")
    ] = None,
    sensitivity: Annotated[
        float | None, typer.Option(help="Report a threshold chosen for it inside the training rows.")
    ] = None,
    specificity: Annotated[float | None, typer.Option(help="The same for a specificity.")] = None,
    conformal: Annotated[
        float | None, typer.Option(metavar="ALPHA", help="Prediction sets that miss the class in at most this share.")
    ] = None,
    conformal_per_class: Annotated[
        bool, typer.Option("--conformal-per-class", help="Let that hold for each class by itself.")
    ] = False,
    per: Annotated[
        str | None, typer.Option(metavar="COL", help="Report exams or patients too, by this column.")
    ] = None,
    aggregate: Annotated[
        str | None, typer.Option(metavar="mean|max|noisy-or", help="How their samples' scores make one; mean.")
    ] = None,
    samples_with: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME/MODALITY", help="Only samples that have these features too; repeat."),
    ] = None,
    trials: Trials = None,
    fine: Annotated[bool, typer.Option("--fine", help="Try 12 more penalties around the best of the grid.")] = False,
    controls: Annotated[
        bool, typer.Option("--controls", help="Each input alone, shuffled inputs and random ones, on the same splits.")
    ] = False,
    out: Out = None,
    json: Json = False,
) -> None:
    """Fit a head on stored features; parameters are selected inside the training rows of each fold."""
    from headwater import api

    run = api.fit_head(
        store,
        features=features,
        label=label,
        head=head,
        params=_params(set_ or []),
        prompts=prompts,
        groups=groups,
        folds=folds,
        split=split,
        bags=bags,
        missing=missing,  # type: ignore[arg-type]
        holdout=holdout,
        where=where,
        by=by,
        label_separator=label_separator,
        allow_leakage=allow_leakage,
        seed=seed,
        seeds=seeds,
        shots=shots,
        draws=draws,
        calibrate=calibrate,  # type: ignore[arg-type]
        sensitivity=sensitivity,
        specificity=specificity,
        conformal=conformal,
        conformal_per_class=conformal_per_class,
        per=per,
        aggregate=aggregate,  # type: ignore[arg-type]
        samples_with=samples_with or (),
        trials=trials,
        fine=fine,
        controls=controls,
        out=out,
        progress=_say,
    )
    _show(run.lines(), run.metrics, json)


@app.command()
def sweep(
    store: Store,
    features: Annotated[
        list[str], typer.Option(metavar="NAME/MODALITY[+…]", help="Inputs; join several by +, repeat for others.")
    ],
    label: Annotated[list[str], typer.Option(metavar="COL", help="Column to predict; repeat for several labels.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where to write leaderboard, trials and runs.")],
    heads: Annotated[list[str] | None, typer.Option(metavar="KIND", help="Kind of head; repeat. Linear.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="HEAD.PARAM=VALUE", help="A parameter, or a list to select among; repeat."),
    ] = None,
    grid: Annotated[
        Path | None, typer.Option(metavar="FILE.toml", help="The same from a file, a table a kind of head.")
    ] = None,
    trials: Trials = None,
    metric: Annotated[str | None, typer.Option(help="What the leaderboard is sorted by; the AUC by default.")] = None,
    groups: Annotated[str | None, typer.Option(metavar="COL|none", help="What a split must keep whole.")] = None,
    folds: Annotated[int | None, typer.Option(help="Folds of cross-validation; 5 by default.")] = None,
    split: Annotated[str | None, typer.Option(metavar="COL", help="Column with train/test or fold numbers.")] = None,
    holdout: Annotated[float | None, typer.Option(help="Test this share of the rows instead of folds.")] = None,
    bags: Annotated[str | None, typer.Option(metavar="COL", help="For --heads mil: what samples are bags of.")] = None,
    where: Where = None,
    by: By = None,
    label_separator: Annotated[
        str | None, typer.Option(help="Split the label column into several labels, as in 'a; b'.")
    ] = None,
    seed: Seed = 0,
    seeds: Annotated[int, typer.Option(min=1, help="How often to repeat it all, with seeds from --seed on.")] = 1,
    per: Annotated[
        str | None, typer.Option(metavar="COL", help="Report exams or patients too, by this column.")
    ] = None,
    aggregate: Annotated[
        str | None, typer.Option(metavar="mean|max|noisy-or", help="How their samples' scores make one; mean.")
    ] = None,
    allow_leakage: Leakage = None,
    json: Json = False,
) -> None:
    """Evaluate inputs x heads x settings on the same splits, to a leaderboard; the same command goes on."""
    from headwater import api

    done = api.sweep(
        store,
        features=features,
        label=label,
        out=out,
        heads=heads or "linear",
        params=_params_of_heads(set_ or []),
        grid=grid,
        trials=trials,
        metric=metric,
        groups=groups,
        folds=folds,
        split=split,
        holdout=holdout,
        bags=bags,
        where=where,
        by=by,
        label_separator=label_separator,
        allow_leakage=allow_leakage,
        seed=seed,
        seeds=seeds,
        per=per,
        aggregate=aggregate,  # type: ignore[arg-type]
        progress=True,
    )
    _show(done.lines(), done.to_dict(), json)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN …", help="Run directories on the same samples.")],
    metric: Annotated[str | None, typer.Option(help="What to compare; the AUC by default.")] = None,
    level: Annotated[float, typer.Option(help="Of the intervals.")] = 0.95,
    draws: Annotated[int, typer.Option(help="Draws of the bootstrap.")] = 2000,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Say whether runs differ: intervals by patient, paired differences, and every test that applies."""
    from headwater import api

    found = api.compare(runs, metric=metric, level=level, n_draws=draws, seed=seed)
    _show(found.lines(), found.to_dict(), json)


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run directory whose head is tested.")],
    store: Annotated[Path, typer.Argument(metavar="STORE", help="The other data set's store.")],
    label: Annotated[list[str], typer.Option(metavar="COL", help="Column of the truth; repeat for several labels.")],
    features: Annotated[
        list[str] | None, typer.Option(metavar="NAME/MODALITY", help="Features, where they are called otherwise.")
    ] = None,
    map_: Annotated[
        list[str] | None, typer.Option("--map", metavar="LABEL=CLASS", help="What a label means; LABEL= leaves it out.")
    ] = None,
    groups: Annotated[str | None, typer.Option(metavar="COL|none", help="What is drawn again for intervals.")] = None,
    where: Where = None,
    by: By = None,
    label_separator: Annotated[str | None, typer.Option(help="Splits the label's text into several labels.")] = None,
    level: Annotated[float, typer.Option(help="Of the intervals.")] = 0.95,
    draws: Annotated[int, typer.Option(help="Draws of the bootstrap.")] = 2000,
    allow_leakage: Leakage = None,
    seed: Seed = 0,
    out: Out = None,
    json: Json = False,
) -> None:
    """Test a fitted head on another data set, untouched, and say how much worse it is there."""
    from headwater import api

    made = api.evaluate(
        run,
        store,
        label=label,
        features=features,
        mapping=_mapping(map_ or []),
        groups=groups,
        where=where,
        by=by,
        label_separator=label_separator,
        level=level,
        n_draws=draws,
        seed=seed,
        allow_leakage=allow_leakage,
        out=out,
        progress=_say,
    )
    _show(made.lines(), made.metrics, json)


@app.command()
def explain(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run of fit-head.")],
    id: Annotated[str, typer.Option(help="The sample to explain.")],
    target: Annotated[str | None, typer.Option("--class", help="The class; the likeliest by default.")] = None,
    method: Annotated[str, typer.Option(help="gradient, occlusion or attention.")] = "gradient",
    store: Annotated[Path | None, typer.Option(metavar="STORE", help="Another store than the run's.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw the image under a heat map.")] = None,
    json: Json = False,
) -> None:
    """Show what in a sample speaks for a class, from stored tokens."""
    from headwater import api

    found = api.explain(run, id=id, target=target, method=method, store=store, out=out)  # type: ignore[arg-type]
    _show(found.lines(), found.to_dict(), json)


@app.command("zero-shot")
def zero_shot(
    store: Store,
    features: Annotated[str, typer.Option(metavar="NAME", help="The dual encoder's name in the store.")],
    prompts: Annotated[Path, typer.Option(metavar="FILE.toml", help="Templates and descriptors of each class.")],
    label: Annotated[
        list[str], typer.Option(metavar="COL", help="Column of the true class; repeat for several labels.")
    ],
    label_separator: Annotated[str | None, typer.Option(help="Splits the label's text into several labels.")] = None,
    where: Where = None,
    by: By = None,
    groups: Annotated[str | None, typer.Option(metavar="COL|none", help="What is drawn again for intervals.")] = None,
    transductive: Annotated[
        bool, typer.Option("--transductive", help="Classify all samples together; their labels stay unseen.")
    ] = False,
    ablate: Annotated[
        bool, typer.Option("--ablate", help="Say which template and which descriptor does what.")
    ] = False,
    metric: Annotated[str | None, typer.Option(help="What to sort these by; the AUC by default.")] = None,
    draws: Annotated[int, typer.Option(help="Draws of the bootstrap.")] = 2000,
    seed: Seed = 0,
    weights: Weights = None,
    device: Device = "auto",
    trust_remote_code: Trust = False,
    out: Out = None,
    json: Json = False,
) -> None:
    """Score images by how near they are to the prompts of each class."""
    from headwater import api

    _warn_of_code(trust_remote_code)
    run = api.zero_shot(
        store,
        features=features,
        prompts=prompts,
        label=label,
        label_separator=label_separator,
        where=where,
        by=by,
        groups=groups,
        transductive=transductive,
        ablate=ablate,
        metric=metric,
        n_draws=draws,
        seed=seed,
        weights=weights,
        device=device,
        trust_remote_code=trust_remote_code,
        out=out,
        progress=_say,
    )
    _show(run.lines(), run.metrics, json)


@app.command()
def similar(
    store: Store,
    features: Annotated[str, typer.Option(metavar="NAME/MODALITY", help="The features to search in.")],
    id: Annotated[str | None, typer.Option(help="Search for cases like this sample.")] = None,
    image: Annotated[Path | None, typer.Option(metavar="FILE", help="Search for cases like this image.")] = None,
    text: Annotated[
        str | None, typer.Option(metavar="WORDS", help="Search for cases that these words describe.")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many to find.")] = 10,
    where: Where = None,
    exclude_same: Annotated[
        str | None, typer.Option(metavar="COL", help="Leave out those with the same value.")
    ] = None,
    index: Annotated[str | None, typer.Option(metavar="KIND", help="Search in this index instead of exactly.")] = None,
    weights: Weights = None,
    device: Device = "auto",
    trust_remote_code: Trust = False,
    json: Json = False,
) -> None:
    """Find similar cases."""
    from headwater import api

    _warn_of_code(trust_remote_code)
    hits = api.similar(
        store,
        features=features,
        id=id,
        image=image,
        text=text,
        k=k,
        where=where,
        exclude_same=exclude_same,
        index=index,
        weights=weights,
        device=device,
        trust_remote_code=trust_remote_code,
    )
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    _show(api.hit_lines(hits, width=width), [hit.to_dict() for hit in hits], json)


@app.command()
def index(
    store: Store,
    features: Annotated[str, typer.Option(metavar="NAME/MODALITY", help="The features to index.")],
    kind: Annotated[str, typer.Option(help="flat, ivf, hnsw or ivfpq.")] = "hnsw",
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Build a FAISS index and measure its recall against exact search."""
    from headwater import api

    built = api.index(store, features=features, kind=kind, seed=seed, progress=True)
    line = f"{built.kind} index of {built.n_vectors:,} items, recall@10 {built.recall_at_10:.3f}, in {built.path}"
    _show([line], vars(built), json)


@app.command()
def audit(
    store: Store,
    features: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME/MODALITY", help="Features; may be left out where there is one set."),
    ] = None,
    label: Annotated[str | None, typer.Option(metavar="COL", help="Say which duplicates differ in it.")] = None,
    groups: Annotated[str | None, typer.Option(metavar="COL|none", help="What a split must keep whole.")] = None,
    split: Annotated[str | None, typer.Option(metavar="COL", help="Column with the sides of a split.")] = None,
    folds: Annotated[int | None, typer.Option(help="Look at the folds that fit-head would make.")] = None,
    seed: Seed = 0,
    where: Where = None,
    false_alarms: Annotated[
        float, typer.Option(help="Share of unrelated pairs that may be taken for near duplicates.")
    ] = 1e-5,
    threshold: Annotated[float | None, typer.Option(help="A whitened cosine similarity to use instead.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the pairs, as .csv or .parquet.")] = None,
    json: Json = False,
) -> None:
    """Find exact and near duplicates, and what of them straddles groups, a split or labels."""
    from headwater import api

    found = api.audit(
        store,
        features=features,
        label=label,
        groups=groups,
        split=split,
        folds=folds,
        seed=seed,
        where=where,
        false_alarms=false_alarms,
        threshold=threshold,
        out=out,
        progress=True,
    )
    lines = found.lines() + ([f"pairs in {out}"] if out is not None else [])
    _show(lines, found.to_dict(), json)


@app.command()
def info(
    store: Store,
    failed: Annotated[bool, typer.Option("--failed", help="List the items that failed, and why.")] = False,
    json: Json = False,
) -> None:
    """Say what a store holds."""
    from headwater import api

    found = api.info(store)
    _show(found.lines(failed=failed), found.to_dict(), json)


@app.command()
def verify(store: Store, json: Json = False) -> None:
    """Read every checksum; status 1 when something differs."""
    from headwater import api

    problems = api.verify(store)
    lines = [*problems, f"{store}: {len(problems)} of what it holds differ from their checksums"]
    _show(lines if problems else [f"{store}: every checksum is right"], {"problems": problems}, json)
    if problems:
        sys.exit(1)


def _params(assignments: list[str]) -> dict[str, Any]:
    """Read ``PARAM=VALUE``: VALUE as JSON where it is, else as words."""
    import json

    from headwater.errors import InputError

    params: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals or not name:
            raise InputError(f"--set {assignment}: write PARAM=VALUE, such as C=0.1.")
        if name in params:
            raise InputError(f"--set {assignment}: {name} was set before. Pass it once.")
        try:
            params[name] = json.loads(value)
        except ValueError:
            params[name] = value
    return params


def _mapping(pairs: list[str]) -> dict[str, str | None]:
    """Read ``LABEL=CLASS``, at the last equals sign; ``LABEL=`` is a label to leave out."""
    from headwater.errors import InputError

    mapping: dict[str, str | None] = {}
    for pair in pairs:
        name, equals, target = pair.rpartition("=")
        if not equals or not name:
            raise InputError(f"--map {pair}: write LABEL=CLASS, or LABEL= to leave the label out.")
        if name in mapping:
            raise InputError(f"--map {pair}: {name} was mapped before. Pass it once.")
        mapping[name] = target or None
    return mapping


def _params_of_heads(assignments: list[str]) -> dict[str, dict[str, Any]]:
    """Read ``HEAD.PARAM=VALUE``, to parameters by head."""
    from headwater.errors import InputError

    params: dict[str, dict[str, Any]] = {}
    for name, value in _params(assignments).items():
        head, dot, param = name.partition(".")
        if not dot or not head or not param:
            raise InputError(f"--set {name}=…: write HEAD.PARAM=VALUE, such as linear.C=[0.1,1].")
        params.setdefault(head, {})[param] = value
    return params
