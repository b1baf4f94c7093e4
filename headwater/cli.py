"""The command line: parse, make one call, print."""

from __future__ import annotations

import errno
import gc
import math
import os
import shutil
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from headwater._cli_options import (
    Adapter,
    Aggregated,
    Bags,
    By,
    Device,
    Drawn,
    Draws,
    Folds,
    Groups,
    Holdout,
    ImageSize,
    InnerFolds,
    Json,
    Layer,
    Leakage,
    Level,
    Merge,
    MissingValues,
    Out,
    Per,
    Pooling,
    PositiveClass,
    Prompt,
    Seed,
    Seeds,
    Separator,
    Split,
    Steps,
    Store,
    TaskAsked,
    Trials,
    Trust,
    Views,
    Weights,
    Where,
    mapping_of,
    params_of,
    params_of_heads,
    printable,
)

FOREIGN = "A file was damaged, or changed by hand: headwater --debug … shows where it was read."
DEBUG = "HEADWATER_DEBUG"
"""Environment variable: where it says anything, an error is shown with its traceback, as by ``--debug``."""


class _Group(TyperGroup):
    """The commands, with Ctrl-C answered here: what click and typer make of it differs between versions.

    An interrupt may come out as another error, of a lock that it cut short for one, and is answered all the same.
    """

    def invoke(self, ctx: Any) -> Any:
        interrupted = False

        def note(number: int, frame: Any) -> None:
            nonlocal interrupted
            interrupted = True
            signal.default_int_handler(number, frame)

        main = threading.current_thread() is threading.main_thread()
        ours = main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if ours:
            signal.signal(signal.SIGINT, note)
        try:
            return super().invoke(ctx)
        except BaseException as error:
            if interrupted or isinstance(error, KeyboardInterrupt):
                _fail("stopped. What was finished is kept: run the same command again to go on.", 130)
            raise
        finally:
            if ours:
                signal.signal(signal.SIGINT, signal.default_int_handler)


app = typer.Typer(
    name="headwater",
    help="A feature store with lightweight heads: encoders run once, heads fit in seconds.",
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """Run the command line; an error is one line and status 1, with ``--debug`` after its traceback."""
    from headwater.errors import HeadwaterError

    try:
        app(prog_name="headwater")
    except HeadwaterError as error:
        _fail(str(error), 1)
    except OSError as error:  # what the system refuses, wherever it does
        _fail(_refusal(error), 1)
    except (MemoryError, RecursionError) as error:
        _fail(_exhausted(error), 1)
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of libraries that are written in Rust, such as polars
            raise
        _fail(f"a library gave up ({str(error).splitlines()[0][:200]}). {FOREIGN}", 1)
    finally:
        if "torch" not in sys.modules:  # some of whose libraries count what is left, and complain
            gc.freeze()  # else the interpreter looks through all that was imported for cycles: a quarter second


def _fail(line: str, status: int) -> NoReturn:
    if _debugging():
        traceback.print_exc()
    from headwater.errors import without_credentials

    print(f"headwater: {printable(without_credentials(' '.join(line.split())))}", file=sys.stderr)
    sys.exit(status)


def _debugging() -> bool:
    return bool(os.environ.get(DEBUG)) and sys.exc_info()[0] is not None


def _exhausted(error: MemoryError | RecursionError) -> str:
    if isinstance(error, MemoryError):
        return "there is not enough memory. Close other programs, or use fewer samples, a smaller batch, fewer workers."
    return f"something is nested too deeply. {FOREIGN}"


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
    debug: Annotated[
        bool, typer.Option("--debug", help="Show where in the code an error came from, for a report.")
    ] = False,
) -> None:
    """A feature store with lightweight heads: encoders run once, heads fit in seconds."""
    if debug:
        os.environ[DEBUG] = "1"


def _show(lines: list[str], value: Any, as_json: bool) -> None:
    if as_json:
        import json

        print(json.dumps(_without_nan(value), indent=2, ensure_ascii=False, default=str, allow_nan=False))
    else:
        print("\n".join(map(printable, lines)))


def _without_nan(value: Any) -> Any:
    """Return a value with null in place of numbers that JSON has no words for: NaN and the infinities."""
    if isinstance(value, dict):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _say(line: str) -> None:
    print(printable(line), file=sys.stderr, flush=True)


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
    """Do everything once, on data made on the spot, without a network, in a minute or two."""
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
    adapter: Adapter = None,
    name: Annotated[str | None, typer.Option(help="What to call the features.")] = None,
    image: Annotated[str | None, typer.Option(metavar="COL", help="Column of image paths.")] = None,
    text: Annotated[str | None, typer.Option(metavar="COL", help="Column of texts.")] = None,
    id: Annotated[str | None, typer.Option(metavar="COL", help="Column of sample ids.")] = None,
    tokens: Annotated[str, typer.Option(metavar="none|all|N", help="Token features to store too.")] = "none",
    layer: Layer = None,
    pooling: Pooling = None,
    prompt: Prompt = None,
    image_size: ImageSize = None,
    dtype: Annotated[str, typer.Option(help="Stored type: float16 or float32.")] = "float16",
    tokens_dtype: Annotated[
        str | None,
        typer.Option(metavar="int8|float16|bfloat16|float32", help="Stored type of tokens; that of --dtype."),
    ] = None,
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")] = "auto",
    device: Device = "auto",
    trust_remote_code: Trust = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Items encoded together.")] = 32,
    workers: Annotated[int | None, typer.Option(min=1, help="Threads; one a core by default.")] = None,
    on_error: Annotated[str, typer.Option(metavar="skip|stop", help="What to do about an unreadable item.")] = "skip",
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try items again that failed before.")] = False,
    rehash: Annotated[bool, typer.Option("--rehash", help="Read files again that look unchanged.")] = False,
    step: Steps = None,
    shard: Annotated[str | None, typer.Option(metavar="I/N", help="Make part I (from 0) of N, beside others.")] = None,
    engine: Annotated[str, typer.Option(metavar="local|ray", help="Here, or on a Ray cluster.")] = "local",
    ray_address: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Of a running Ray cluster.")] = None,
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
        adapter=adapter,
        name=name,
        image=image,
        text=text,
        id=id,
        tokens=tokens,
        layer=layer,
        pooling=pooling,
        prompt=prompt,
        image_size=image_size,
        dtype=dtype,
        tokens_dtype=tokens_dtype,
        precision=precision,  # type: ignore[arg-type]
        device=device,
        trust_remote_code=trust_remote_code,
        batch_size=batch_size,
        workers=workers,
        on_error=on_error,
        retry_failed=retry_failed,
        rehash=rehash,
        steps=step or (),
        shard=shard,
        engine=engine,
        ray_address=ray_address,
        progress=True,
    )
    _show(done.lines(), done.to_dict(), json)
    if done.failed_whole:
        n_failed = len(done.failed[done.failed_whole[0]])
        _fail(f"{' and '.join(done.failed_whole)}: all failed ({n_failed:,} samples): see the reasons above.", 1)


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
    image_size: ImageSize = None,
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
        image_size=image_size,
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
    head: Annotated[str | None, typer.Option(metavar="KIND", help="Kind of head; linear, or ridge.")] = None,
    task: TaskAsked = "auto",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PARAM=VALUE", help="A parameter, or a list of values to select among; repeat."),
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(metavar="FILE.toml", help="Texts of each class, for --head tip-adapter and its like.")
    ] = None,
    groups: Groups = None,
    folds: Folds = None,
    split: Split = None,
    bags: Bags = None,
    views: Views = None,
    missing: Annotated[str, typer.Option(metavar="drop|keep", help="Samples that lack one of the features.")] = "drop",
    holdout: Holdout = None,
    where: Where = None,
    by: By = None,
    label_separator: Separator = None,
    missing_values: MissingValues = None,
    positive: PositiveClass = None,
    merge: Merge = None,
    allow_leakage: Leakage = None,
    seed: Seed = 0,
    seeds: Seeds = 1,
    inner_folds: InnerFolds = 4,
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
    per: Per = None,
    aggregate: Aggregated = None,
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
        task=task,  # type: ignore[arg-type]
        params=params_of(set_ or []),
        prompts=prompts,
        groups=groups,
        folds=folds,
        split=split,
        bags=bags,
        views=views,
        missing=missing,  # type: ignore[arg-type]
        holdout=holdout,
        where=where,
        by=by,
        label_separator=label_separator,
        missing_values=missing_values,
        positive=positive,
        merge=mapping_of("--merge", merge or []),
        allow_leakage=allow_leakage,
        seed=seed,
        seeds=seeds,
        inner_folds=inner_folds,
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


@app.command("fine-tune")
def fine_tune(
    manifest: Annotated[
        Path, typer.Argument(metavar="MANIFEST", help="CSV, TSV, Parquet or JSON lines, or a folder a class.")
    ],
    encoder: Annotated[
        list[str], typer.Option(metavar="SPEC", help="What reads the samples; twice, for images and for texts.")
    ],
    label: Annotated[
        list[str] | None, typer.Option(metavar="COL", help="Column to predict; repeat for several labels.")
    ] = None,
    objective: Annotated[
        str, typer.Option(metavar="classify|contrastive", help="Predict a label, or let images and texts meet.")
    ] = "classify",
    loss: Annotated[str, typer.Option(metavar="clip|siglip", help="Of --objective contrastive.")] = "clip",
    dim: Annotated[int, typer.Option(min=1, help="Length of the vectors that two encoders are brought to.")] = 256,
    prompts: Annotated[
        Path | None, typer.Option(metavar="FILE.toml", help="Measure zero-shot too, with --objective contrastive.")
    ] = None,
    train: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[image=|text=]lora|last-N|full|none",
            help="What is trained, of all or of one; repeat. LoRA; of pairs full.",
        ),
    ] = None,
    head: Annotated[str, typer.Option(metavar="KIND", help="Kind of head.")] = "linear",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PARAM=VALUE", help="A parameter of the head; repeat."),
    ] = None,
    weights: Annotated[
        list[str] | None, typer.Option(metavar="FILE", help="A local state dict; as often as --encoder.")
    ] = None,
    adapter: Adapter = None,
    image: Annotated[str | None, typer.Option(metavar="COL", help="Column of image paths.")] = None,
    text: Annotated[str | None, typer.Option(metavar="COL", help="Column of texts: an input beside the image.")] = None,
    id: Annotated[str | None, typer.Option(metavar="COL", help="Column of sample ids.")] = None,
    groups: Groups = None,
    folds: Folds = None,
    split: Split = None,
    holdout: Holdout = None,
    bags: Bags = None,
    views: Views = None,
    where: Where = None,
    by: By = None,
    per: Per = None,
    aggregate: Aggregated = None,
    label_separator: Separator = None,
    missing_values: MissingValues = None,
    positive: PositiveClass = None,
    allow_leakage: Leakage = None,
    seed: Seed = 0,
    start: Annotated[
        str, typer.Option(metavar="probe|random", help="The head: as fitted on frozen features, or drawn anew.")
    ] = "probe",
    step: Steps = None,
    image_size: ImageSize = None,
    layer: Layer = None,
    pooling: Pooling = None,
    prompt: Prompt = None,
    augment: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FAMILY", help="colour, stain, flip, rotate, affine, crop, elastic, erase, or geometry; repeat."
        ),
    ] = None,
    batch_norm: Annotated[str, typer.Option(metavar="keep|update", help="Statistics of trained batch norms.")] = "keep",
    lora_rank: Annotated[int, typer.Option(min=1, help="Rank of low-rank adapters.")] = 8,
    lora_alpha: Annotated[float, typer.Option(help="Adapters are scaled by alpha / rank.")] = 16.0,
    lora_dropout: Annotated[float, typer.Option(help="Share of their inputs that is left out.")] = 0.0,
    lora_modules: Annotated[
        str | None, typer.Option(metavar="REGEX", help="Names of the layers that get adapters; all of the blocks.")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Of the encoder: 2e-4 LoRA, 2e-5 last blocks, 1e-5 full.")] = None,
    head_lr: Annotated[
        float | None, typer.Option(help="Of the head, 1e-4; of the scale of cosines and projections, 1e-3.")
    ] = None,
    weight_decay: Annotated[float, typer.Option(help="Of matrices.")] = 1e-4,
    epochs: Annotated[int, typer.Option(min=1, help="Most passes over the training rows.")] = 30,
    warmup: Annotated[float, typer.Option(min=0, help="Epochs in which learning rates go up.")] = 1.0,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Samples a step, 32; pairs that a step tells apart, 64.")
    ] = None,
    accumulate: Annotated[int, typer.Option(min=1, help="Work on a step in so many parts: less memory.")] = 1,
    patience: Annotated[
        int, typer.Option(min=0, help="Stop after so many epochs without a lower loss; 0 for never.")
    ] = 5,
    clip: Annotated[float, typer.Option(help="Largest norm of a step's gradient.")] = 1.0,
    checkpoint_gradients: Annotated[
        bool, typer.Option("--checkpoint-gradients", help="Less memory, more time.")
    ] = False,
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")] = "auto",
    device: Device = "auto",
    workers: Annotated[int | None, typer.Option(min=1, help="Threads; one a core by default.")] = None,
    refit: Annotated[bool, typer.Option(help="Train once more on all samples, for what the run keeps.")] = True,
    out: Out = None,
    json: Json = False,
) -> None:
    """Train an encoder, or a part of it: with a head, beside the same head on frozen features; or on pairs."""
    from headwater import api
    from headwater.errors import InputError
    from headwater.finetune.adapt import LoraSettings

    lora = LoraSettings(lora_rank, lora_alpha, lora_dropout, lora_modules)
    if objective == "contrastive":
        idle = {
            "--head": head != "linear",
            "--set": set_,
            "--bags": bags,
            "--views": views,
            "--by": by,
            "--per": per,
            "--folds": folds,
        }
        idle |= {"--aggregate": aggregate, "--label-separator": label_separator, "--positive": positive}
        idle |= {
            "--start": start != "probe",
            "--no-refit": not refit,
            "a second --label": len(label or ()) > 1,
        }
        if given := [option for option, value in idle.items() if value]:
            raise InputError(f"--objective contrastive has no head: leave {', '.join(given)} out.")
        idle = {"--layer": layer, "--pooling": pooling, "--prompt": prompt}
        if given := [option for option, value in idle.items() if value is not None]:
            raise InputError(f"--objective contrastive reads images and texts apart: leave {', '.join(given)} out.")
        done = api.contrast(
            manifest,
            encoder=encoder,
            train=train or "full",
            loss=loss,  # type: ignore[arg-type]
            dim=dim,
            weights=weights or (),
            adapter=adapter,
            image=image,
            text=text,
            id=id,
            groups=groups,
            holdout=0.2 if holdout is None else holdout,
            split=split,
            where=where,
            allow_leakage=allow_leakage,
            missing_values=missing_values,
            prompts=prompts,
            label=label[0] if label else None,
            seed=seed,
            steps=step or (),
            image_size=image_size,
            augment=augment or (),
            batch_norm=batch_norm,  # type: ignore[arg-type]
            lora=lora,
            lr=lr,
            head_lr=1e-3 if head_lr is None else head_lr,
            weight_decay=weight_decay,
            epochs=epochs,
            warmup=warmup,
            batch_size=64 if batch_size is None else batch_size,
            accumulate=accumulate,
            patience=patience or None,
            clip=clip,
            checkpoint_gradients=checkpoint_gradients,
            precision=precision,  # type: ignore[arg-type]
            device=device,
            workers=workers,
            out=out,
            progress=_say,
            bar=True,
        )
        _show(done.lines(), done.metrics, json)
        return
    if objective != "classify":
        raise InputError(f"--objective {objective!r}. There are: classify, contrastive.")
    if prompts is not None or loss != "clip":
        raise InputError("--prompts and --loss go with --objective contrastive.")
    if not label:
        raise InputError("--label COL is needed: the column to predict. Or pass --objective contrastive.")
    run = api.fine_tune(
        manifest,
        encoder=encoder,
        label=label,
        train=train or "lora",
        head=head,
        params=params_of(set_ or []),
        weights=weights or (),
        adapter=adapter,
        image=image,
        text=text,
        id=id,
        groups=groups,
        folds=folds,
        split=split,
        holdout=holdout,
        bags=bags,
        views=views,
        where=where,
        by=by,
        per=per,
        aggregate=aggregate,  # type: ignore[arg-type]
        label_separator=label_separator,
        missing_values=missing_values,
        positive=positive,
        allow_leakage=allow_leakage,
        seed=seed,
        start=start,  # type: ignore[arg-type]
        steps=step or (),
        image_size=image_size,
        layer=layer,
        pooling=pooling,
        prompt=prompt,
        augment=augment or (),
        batch_norm=batch_norm,  # type: ignore[arg-type]
        lora=lora,
        lr=lr,
        head_lr=1e-4 if head_lr is None else head_lr,
        weight_decay=weight_decay,
        epochs=epochs,
        warmup=warmup,
        batch_size=32 if batch_size is None else batch_size,
        accumulate=accumulate,
        patience=patience or None,
        clip=clip,
        checkpoint_gradients=checkpoint_gradients,
        precision=precision,  # type: ignore[arg-type]
        device=device,
        workers=workers,
        refit=refit,
        out=out,
        progress=_say,
        bar=True,
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
    heads: Annotated[
        list[str] | None, typer.Option(metavar="KIND", help="Kind of head; repeat. Linear, or ridge.")
    ] = None,
    task: TaskAsked = "auto",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="HEAD.PARAM=VALUE", help="A parameter, or a list to select among; repeat."),
    ] = None,
    grid: Annotated[
        Path | None, typer.Option(metavar="FILE.toml", help="The same from a file, a table a kind of head.")
    ] = None,
    trials: Trials = None,
    metric: Annotated[str | None, typer.Option(help="What the leaderboard is sorted by; the AUC by default.")] = None,
    groups: Groups = None,
    folds: Folds = None,
    split: Split = None,
    holdout: Holdout = None,
    bags: Bags = None,
    views: Views = None,
    where: Where = None,
    by: By = None,
    label_separator: Separator = None,
    missing_values: MissingValues = None,
    positive: PositiveClass = None,
    merge: Merge = None,
    seed: Seed = 0,
    seeds: Seeds = 1,
    inner_folds: InnerFolds = 4,
    per: Per = None,
    aggregate: Aggregated = None,
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
        heads=heads,
        task=task,  # type: ignore[arg-type]
        params=params_of_heads(set_ or []),
        grid=grid,
        trials=trials,
        metric=metric,
        groups=groups,
        folds=folds,
        split=split,
        holdout=holdout,
        bags=bags,
        views=views,
        where=where,
        by=by,
        label_separator=label_separator,
        missing_values=missing_values,
        positive=positive,
        merge=mapping_of("--merge", merge or []),
        allow_leakage=allow_leakage,
        seed=seed,
        seeds=seeds,
        inner_folds=inner_folds,
        per=per,
        aggregate=aggregate,  # type: ignore[arg-type]
        progress=True,
    )
    _show(done.lines(), done.to_dict(), json)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN …", help="Run directories on the same samples.")],
    metric: Annotated[str | None, typer.Option(help="What to compare; the AUC by default.")] = None,
    positive: PositiveClass = None,
    level: Level = 0.95,
    draws: Draws = 2000,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Say whether runs differ: intervals by patient, paired differences, and every test that applies."""
    from headwater import api

    found = api.compare(runs, metric=metric, positive=positive, level=level, n_draws=draws, seed=seed)
    _show(found.lines(), found.to_dict(), json)


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run directory whose head is tested.")],
    store: Annotated[str, typer.Argument(metavar="STORE", help="The other data set's store.")],
    label: Annotated[list[str], typer.Option(metavar="COL", help="Column of the truth; repeat for several labels.")],
    features: Annotated[
        list[str] | None, typer.Option(metavar="NAME/MODALITY", help="Features, where they are called otherwise.")
    ] = None,
    map_: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="LABEL=CLASS|FILE", help="What labels mean here; LABEL= leaves it out."),
    ] = None,
    groups: Drawn = None,
    where: Where = None,
    by: By = None,
    label_separator: Separator = None,
    missing_values: MissingValues = None,
    positive: PositiveClass = None,
    level: Level = 0.95,
    draws: Draws = 2000,
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
        mapping=mapping_of("--map", map_ or []),
        groups=groups,
        where=where,
        by=by,
        label_separator=label_separator,
        missing_values=missing_values,
        positive=positive,
        level=level,
        n_draws=draws,
        seed=seed,
        allow_leakage=allow_leakage,
        out=out,
        progress=_say,
    )
    _show(made.lines(), made.metrics, json)


@app.command()
def plot(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where to write them; figures in the run directory.")
    ] = None,
    positive: PositiveClass = None,
    dpi: Annotated[int, typer.Option(min=1, help="Dots an inch of PNG.")] = 300,
    json: Json = False,
) -> None:
    """Draw a run, as PNG and SVG: reliability, ROC and precision-recall curves, confusion; or predicted numbers."""
    from headwater import report

    drawn = report.plot(run, out=out, positive=positive, dpi=dpi)
    _show(drawn.lines(), drawn.to_dict(), json)


@app.command()
def explain(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run of fit-head.")],
    id: Annotated[str, typer.Option(help="The sample to explain.")],
    target: Annotated[str | None, typer.Option("--class", help="The class; the likeliest by default.")] = None,
    method: Annotated[str, typer.Option(help="gradient, occlusion or attention.")] = "gradient",
    store: Annotated[str | None, typer.Option(metavar="STORE", help="Another store than the run's.")] = None,
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
    label_separator: Separator = None,
    missing_values: MissingValues = None,
    positive: PositiveClass = None,
    where: Where = None,
    by: By = None,
    groups: Drawn = None,
    transductive: Annotated[
        bool, typer.Option("--transductive", help="Classify all samples together; their labels stay unseen.")
    ] = False,
    ablate: Annotated[
        bool, typer.Option("--ablate", help="Say which template and which descriptor does what.")
    ] = False,
    metric: Annotated[str | None, typer.Option(help="What to sort these by; the AUC by default.")] = None,
    draws: Draws = 2000,
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
        missing_values=missing_values,
        positive=positive,
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
        str | None,
        typer.Option(metavar="WORDS", help="Search for cases that these words describe; in pairs, beside --image."),
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
    groups: Groups = None,
    split: Annotated[str | None, typer.Option(metavar="COL", help="Column with the sides of a split.")] = None,
    folds: Annotated[int | None, typer.Option(help="Look at the folds that fit-head would make.")] = None,
    seed: Seed = 0,
    where: Where = None,
    missing_values: MissingValues = None,
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
        missing_values=missing_values,
        false_alarms=false_alarms,
        threshold=threshold,
        out=out,
        progress=True,
    )
    lines = found.lines() + ([f"pairs in {out}"] if out is not None else [])
    _show(lines, found.to_dict(), json)


@app.command("import")
def import_(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="clip-retrieval folder, .npy, .npz, .h5, .pt, .parquet, .lance, …")
    ],
    store: Store,
    name: Annotated[str, typer.Option(help="What to call the features.")],
    modality: Annotated[str | None, typer.Option(metavar="image|text", help="What the vectors are of; images.")] = None,
    format: Annotated[
        str, typer.Option(help="auto, clip-retrieval, npy, hdf5, pt, safetensors, parquet or lance.")
    ] = "auto",
    id: Annotated[str | None, typer.Option(metavar="COL", help="Column of sample ids, or of slides.")] = None,
    table: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A table with a row a vector, or a row a slide.")
    ] = None,
    vectors: Annotated[str | None, typer.Option(metavar="COL", help="Column or array of the vectors.")] = None,
    dtype: Annotated[str, typer.Option(metavar="auto|float16|float32", help="Stored type; as it is.")] = "auto",
    prompts: Annotated[
        bool, typer.Option("--prompts", help="Texts that are no samples, for zero-shot; with --modality text.")
    ] = False,
    json: Json = False,
) -> None:
    """Store vectors that another tool made, as features."""
    from headwater import api

    done = api.import_features(
        source,
        store,
        name=name,
        modality=modality,
        format=format,
        id=id,
        table=table,
        vectors=vectors,
        dtype=dtype,
        prompts=prompts,
        progress=True,
    )
    _show(done.lines(), done.to_dict(), json)


@app.command()
def export(
    store: Store,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The file or folder to write.")],
    features: Annotated[list[str], typer.Option(metavar="NAME/MODALITY", help="Features to write; repeat.")],
    format: Annotated[str, typer.Option(help="npy, hdf5, parquet, h5ad, datasets or safetensors.")] = "npy",
    where: Where = None,
    json: Json = False,
) -> None:
    """Write features and their samples for other tools."""
    from headwater import api

    done = api.export_features(store, out, features=features, format=format, where=where)
    _show(done.lines(), done.to_dict(), json)


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


@app.command("gc")
def drop_unused(
    store: Store,
    drop: Annotated[
        list[str] | None, typer.Option(metavar="NAME/MODALITY", help="A feature set to drop whole; repeat.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without, only say what would be dropped.")] = False,
    json: Json = False,
) -> None:
    """Drop stored items that no sample uses any more, and feature sets that are named."""
    from headwater import api

    done = api.gc(store, drop=drop or (), yes=yes)
    _show(done.lines(), vars(done), json)


@app.command()
def verify(
    store: Store,
    repair: Annotated[
        bool, typer.Option("--repair", help="Mend what can be told from the rest; embed just damaged blocks again.")
    ] = False,
    weights: Weights = None,
    device: Device = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Items encoded together.")] = 32,
    workers: Annotated[int | None, typer.Option(min=1, help="Threads; one a core by default.")] = None,
    trust_remote_code: Trust = False,
    json: Json = False,
) -> None:
    """Read every checksum; status 1 when something differs, or still does after --repair."""
    from headwater import api

    if repair:
        encoding = api.Encoding(weights, device, batch_size, workers, trust_remote_code)
        done = api.repair(store, encoding, progress=True)
        _show(done.lines(), vars(done), json)
        if done.left:
            sys.exit(1)
        return
    problems = api.verify(store)
    _show(problems.lines(store), {"problems": problems, "unchecked": problems.unchecked}, json)
    if problems:
        sys.exit(1)
