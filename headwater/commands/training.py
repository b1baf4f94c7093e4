"""Commands that train an encoder: fine-tune, contrast."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from headwater.commands import options as o
from headwater.commands.options import mapping_of, option, params_of
from headwater.commands.output import show

Encoders = Annotated[
    list[str], option(panel=o.ENCODER, metavar="SPEC", help="Encoder of the samples; twice, for images and for texts.")
]
WeightFiles = Annotated[
    list[str] | None, option(panel=o.ENCODER, metavar="FILE", help="Local weights; as often as --encoder.")
]
Train = Annotated[
    list[str] | None,
    option(
        panel=o.TRAINING,
        metavar="[image=|text=]lora|last-N|full|none",
        help="What is trained, of all inputs or of one; repeat. Default: lora; full for contrast.",
    ),
]
Augment = Annotated[
    list[str] | None,
    option(
        panel=o.TRAINING,
        metavar="FAMILY",
        help="Random image changes: colour, stain, flip, rotate, affine, crop, elastic, erase or geometry; repeat.",
    ),
]
BatchNorm = Annotated[
    Literal["keep", "update"], option(panel=o.TRAINING, help="What becomes of the statistics of batch norms.")
]
LoraRank = Annotated[int, option(panel=o.TRAINING, min=1, help="Rank of LoRA adapters.")]
LoraAlpha = Annotated[float, option(panel=o.TRAINING, help="Adapters are scaled by alpha / rank.")]
LoraDropout = Annotated[float, option(panel=o.TRAINING, help="Dropout of their inputs.")]
LoraModules = Annotated[
    str | None,
    option(panel=o.TRAINING, metavar="REGEX", help="Layers that get adapters. Default: all of the blocks."),
]
Lr = Annotated[
    float | None,
    option(panel=o.TRAINING, help="Learning rate of the encoder. Default: 2e-4 LoRA, 2e-5 last blocks, 1e-5 full."),
]
WeightDecay = Annotated[float, option(panel=o.TRAINING, help="Weight decay of matrices.")]
Epochs = Annotated[int, option(panel=o.TRAINING, min=1, help="At most this many passes over the training rows.")]
Warmup = Annotated[float, option(panel=o.TRAINING, min=0, help="Epochs in which learning rates rise.")]
Accumulate = Annotated[
    int, option(panel=o.TRAINING, min=1, help="Compute a step in this many parts, to need less memory.")
]
Patience = Annotated[
    int, option(panel=o.TRAINING, min=0, help="Stop after this many epochs without a lower loss; 0 for never.")
]
Clip = Annotated[float, option(panel=o.TRAINING, help="Largest norm of a step's gradient.")]
CheckpointGradients = Annotated[
    bool, option("--checkpoint-gradients", panel=o.TRAINING, help="Less memory, more time.")
]


def _objective(objective: str) -> str:
    """Refuse what is a command of its own, before other options are asked for."""
    from headwater.errors import InputError

    if objective != "classify":
        raise InputError(f"--objective {objective} is a command of its own now: run headwater contrast.")
    return objective


def fine_tune(
    manifest: o.Manifest,
    encoder: Encoders,
    label: o.Label,
    image: o.ImageColumn = None,
    text: Annotated[
        str | None, option(panel=o.DATA, metavar="COL", help="Column of texts, as an input beside the image.")
    ] = None,
    id: o.IdColumn = None,
    label_separator: o.Separator = None,
    merge: o.Merge = None,
    where: o.Where = None,
    bags: o.Bags = None,
    views: o.Views = None,
    missing_values: o.MissingValues = None,
    positive: o.PositiveClass = None,
    groups: o.Groups = None,
    folds: o.Folds = None,
    split: o.Split = None,
    holdout: o.Holdout = None,
    seed: o.Seed = 0,
    seeds: o.Seeds = 1,
    allow_leakage: o.Leakage = None,
    weights: WeightFiles = None,
    adapter: o.Adapter = None,
    layer: o.Layer = None,
    pooling: o.Pooling = None,
    prompt: o.Prompt = None,
    image_size: o.ImageSize = None,
    window: o.Window = None,
    decode: o.Decode = None,
    step: o.Steps = None,
    head: Annotated[str, option(panel=o.HEAD, metavar="KIND", help="Kind of head.")] = "linear",
    set_: o.SetParam = None,
    train: Train = None,
    start: Annotated[
        Literal["probe", "random"],
        option(panel=o.TRAINING, help="The head to start from: fitted on frozen features, or random."),
    ] = "probe",
    augment: Augment = None,
    batch_norm: BatchNorm = "keep",
    lora_rank: LoraRank = 8,
    lora_alpha: LoraAlpha = 16.0,
    lora_dropout: LoraDropout = 0.0,
    lora_modules: LoraModules = None,
    lr: Lr = None,
    head_lr: Annotated[float, option(panel=o.TRAINING, help="Learning rate of the head.")] = 1e-4,
    weight_decay: WeightDecay = 1e-4,
    epochs: Epochs = 30,
    warmup: Warmup = 1.0,
    batch_size: Annotated[int, option(panel=o.TRAINING, min=1, help="Samples a step.")] = 32,
    accumulate: Accumulate = 1,
    patience: Patience = 5,
    clip: Clip = 1.0,
    checkpoint_gradients: CheckpointGradients = False,
    refit: Annotated[
        bool, option(panel=o.TRAINING, help="Train once more on all samples, for the encoder that the run keeps.")
    ] = True,
    precision: o.Precision = "auto",
    device: o.Device = "auto",
    workers: o.Workers = None,
    calibrate: o.Calibrate = None,
    sensitivity: o.Sensitivity = None,
    specificity: o.Specificity = None,
    conformal: o.Conformal = None,
    conformal_per_class: o.PerClass = False,
    prevalence: o.Prevalence = None,
    by: o.By = None,
    per: o.Per = None,
    aggregate: o.Aggregated = None,
    out: o.Out = None,
    json: o.Json = False,
    objective: Annotated[str, o.typer.Option(hidden=True, is_eager=True, callback=_objective)] = "classify",
) -> None:
    """Train an encoder together with a head.

    The same head on frozen features is reported beside it.

    Example:
      headwater fine-tune scans.csv --encoder timm:resnet34.a1_in1k --label density --out runs/tuned
    """
    given = dict(locals())
    from headwater import api
    from headwater._options import picked
    from headwater.embed.plan import ManifestColumns
    from headwater.evaluate.options import Protocol
    from headwater.samples.selection import Selection

    run = api.fine_tune(
        manifest,
        encoder=encoder,
        label=label,
        head=head,
        params=params_of(set_ or []),
        weights=weights or (),
        allow_leakage=allow_leakage,
        columns=picked(ManifestColumns, given),
        protocol=picked(Protocol, given),
        selection=picked(Selection, given, merge=mapping_of("--merge", merge or [])),
        training=_training(given),
        out=out,
        progress=True,
        **_encoder_options(given),
    )
    show(run.lines(), run.metrics, json)


def contrast(
    manifest: o.Manifest,
    encoder: Encoders,
    image: o.ImageColumn = None,
    text: o.TextColumn = None,
    id: o.IdColumn = None,
    where: o.Where = None,
    missing_values: o.MissingValues = None,
    label: Annotated[
        str | None, option(panel=o.DATA, metavar="COL", help="Column that --prompts describe, for zero-shot.")
    ] = None,
    groups: o.Groups = None,
    split: Annotated[str | None, option(panel=o.SPLIT, metavar="COL", help="Column with train/test.")] = None,
    holdout: Annotated[
        float | None, option(panel=o.SPLIT, metavar="SHARE", help="Share of pairs to test on. Default: 0.2.")
    ] = None,
    seed: o.Seed = 0,
    allow_leakage: o.Leakage = None,
    weights: WeightFiles = None,
    adapter: o.Adapter = None,
    image_size: o.ImageSize = None,
    window: o.Window = None,
    decode: o.Decode = None,
    step: o.Steps = None,
    dim: Annotated[
        int | None,
        option(panel=o.ENCODER, min=1, help="Length of the vectors that two encoders are projected to. Default: 256."),
    ] = None,
    train: Train = None,
    loss: Annotated[Literal["clip", "siglip"], option(panel=o.TRAINING, help="The contrastive loss.")] = "clip",
    augment: Augment = None,
    batch_norm: BatchNorm = "keep",
    lora_rank: LoraRank = 8,
    lora_alpha: LoraAlpha = 16.0,
    lora_dropout: LoraDropout = 0.0,
    lora_modules: LoraModules = None,
    lr: Lr = None,
    head_lr: Annotated[
        float, option(panel=o.TRAINING, help="Learning rate of the scale of cosines and of projections.")
    ] = 1e-3,
    weight_decay: WeightDecay = 1e-4,
    epochs: Epochs = 30,
    warmup: Warmup = 1.0,
    batch_size: Annotated[int, option(panel=o.TRAINING, min=1, help="Pairs that a step compares.")] = 64,
    accumulate: Accumulate = 1,
    patience: Patience = 5,
    clip: Clip = 1.0,
    checkpoint_gradients: CheckpointGradients = False,
    precision: o.Precision = "auto",
    device: o.Device = "auto",
    workers: o.Workers = None,
    prompts: Annotated[
        Path | None, option(panel=o.REPORT, metavar="FILE.toml", help="Also measure zero-shot, with these prompts.")
    ] = None,
    out: o.Out = None,
    json: o.Json = False,
) -> None:
    """Train image and text encoders on pairs.

    Images and texts that belong together get similar vectors.

    Example:
      headwater contrast scans.csv --encoder open_clip:ViT-B-32/openai --groups patient --out runs/pairs
    """
    given = dict(locals())
    from headwater import api
    from headwater._options import picked
    from headwater.embed.plan import ManifestColumns
    from headwater.samples.selection import OF_PAIRS

    done = api.contrast(
        manifest,
        encoder=encoder,
        loss=loss,
        dim=dim,
        weights=weights or (),
        prompts=prompts,
        label=label,
        allow_leakage=allow_leakage,
        columns=picked(ManifestColumns, given),
        training=_training({**given, "train": train or ["full"]}),
        out=out,
        progress=True,
        **{name: given[name] for name in OF_PAIRS},
        **_encoder_options(given),
    )
    show(done.lines(), done.metrics, json)


def _training(given: dict[str, Any]) -> Any:
    """Make a `headwater.Training` of the options; a patience of 0 stands for none."""
    from dataclasses import replace

    from headwater._options import picked
    from headwater.finetune.adapt import LoraSettings
    from headwater.finetune.options import Training

    lora = LoraSettings(*(given[f"lora_{name}"] for name in ("rank", "alpha", "dropout", "modules")))
    training = picked(Training, given, lora=lora, train=given["train"] or None)
    return replace(training, patience=given["patience"] or None)


def _encoder_options(given: dict[str, Any]) -> dict[str, Any]:
    """Return the options of the encoder that are given."""
    names = ("adapter", "layer", "pooling", "prompt", "image_size")
    chosen = {name: given[name] for name in names if given.get(name) is not None}
    return {**chosen, "steps": o.steps_of(given)}
