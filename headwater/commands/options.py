"""Options that several commands share, by what they are about, and how their values are read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

DATA, SPLIT, HEAD, REPORT = "Data", "Split", "Head", "Report"
ENCODER, TRAINING, COMPUTING, OUTPUT = "Encoder", "Training", "Computing", "Output"
"""Panels: what options are about."""


def option(*names: str, panel: str, **more: Any) -> Any:
    return typer.Option(*names, rich_help_panel=panel, **more)


# Data

Store = Annotated[
    str,
    typer.Argument(
        metavar="STORE", help="The store: a directory such as lung.hw, or a URL such as s3://bucket/lung.hw."
    ),
]
Manifest = Annotated[
    Path,
    typer.Argument(metavar="MANIFEST", help="CSV, TSV, Parquet, JSON lines, or a folder with a subfolder per class."),
]
Features = Annotated[
    list[str],
    option(panel=DATA, metavar="NAME/MODALITY", help="Features, such as vit/image; repeat for more inputs."),
]
_OF_LABEL = (
    """Column to predict, or NAME = EXPRESSION over columns, such as "covid = finding LIKE '%COVID%'"; repeat."""
)
Label = Annotated[list[str], option(panel=DATA, metavar="COL", help=_OF_LABEL)]
MaybeLabel = Annotated[list[str] | None, option("--label", panel=DATA, metavar="COL", help=_OF_LABEL)]
Time = Annotated[
    str | None, option(panel=DATA, metavar="COL", help="--task survival: column of times until event or censoring.")
]
Event = Annotated[
    str | None, option(panel=DATA, metavar="COL", help="--task survival: column of 1 for an event, 0 for censored.")
]
RiskGroups = Annotated[
    int | None, option(panel=REPORT, metavar="2|3", help="--task survival: groups by risk to compare. Default: 2.")
]
Where = Annotated[str | None, option(panel=DATA, metavar="SQL", help="Use only these samples, such as 'age > 50'.")]
Bags = Annotated[
    str | None,
    option(panel=DATA, metavar="COL", help="What samples belong to, such as the slide; for --head mil and --views."),
]
Views = Annotated[
    str | None,
    option(
        panel=DATA, metavar="COL", help="View or magnification; each view of a --bags case becomes an input of its own."
    ),
]
Separator = Annotated[str | None, option(panel=DATA, metavar="TEXT", help="Splits --label's text into several labels.")]
MissingValues = Annotated[
    str | None,
    option(
        panel=DATA,
        metavar="WORDS",
        help="Words that count as missing, besides empty cells; '' for none. Default: NA,N/A,NaN,null.",
    ),
]
Merge = Annotated[
    list[str] | None,
    option(
        panel=DATA,
        metavar="LABEL=CLASS|FILE",
        help="Labels that mean the same, or a CSV (from,to) or TOML file of them; LABEL= leaves samples out; *=CLASS "
        "maps all others. Repeat.",
    ),
]
PositiveClass = Annotated[
    str | None, option("--positive", panel=DATA, metavar="CLASS", help="The positive one of two classes.")
]
ImageColumn = Annotated[str | None, option(panel=DATA, metavar="COL", help="Image paths. Default: found by name.")]
TextColumn = Annotated[str | None, option(panel=DATA, metavar="COL", help="Texts. Default: found by name.")]
IdColumn = Annotated[str | None, option(panel=DATA, metavar="COL", help="Sample ids. Default: found by name.")]

# Split

Groups = Annotated[
    str | None,
    option(panel=SPLIT, metavar="COL|none", help="Column to keep whole in every split, such as the patient."),
]
Folds = Annotated[int | None, option(panel=SPLIT, metavar="N", help="Folds of cross-validation. Default: 5.")]
Split = Annotated[str | None, option(panel=SPLIT, metavar="COL", help="Column with train/test, or fold numbers.")]
Holdout = Annotated[
    float | None, option(panel=SPLIT, metavar="SHARE", help="Share of samples to test on once, instead of folds.")
]
Seed = Annotated[int, option(panel=SPLIT, min=0, help="Random seed: the same seed gives the same result.")]
Seeds = Annotated[int, option(panel=SPLIT, min=1, help="Repeat everything with this many seeds, from --seed on.")]
Leakage = Annotated[
    str | None,
    option(
        panel=SPLIT,
        metavar="REASON",
        help="Reason to accept duplicates or a divided group across train and test (otherwise the run is refused).",
    ),
]

# Head

Head = Annotated[
    str | None,
    option(
        panel=HEAD,
        metavar="KIND",
        help="Kind of head. Default: linear; ridge for numbers, cox for survival, ordinal for grades.",
    ),
]
SetParam = Annotated[
    list[str] | None,
    option("--set", panel=HEAD, metavar="PARAM=VALUE", help="A parameter, or a list of values to search; repeat."),
]
TaskOption = Annotated[
    Literal["auto", "regression", "survival", "ordinal"],
    option(
        "--task",
        panel=HEAD,
        help="auto: labels are classes; regression: numbers; survival: risks, of --time and --event; ordinal: grades.",
    ),
]
Order = Annotated[
    str | None,
    option(
        panel=HEAD,
        metavar="LOWEST,…,HIGHEST",
        help="--task ordinal: the grades in their order. Default: by number, letter or Roman numeral.",
    ),
]
InnerFolds = Annotated[
    int, option(panel=HEAD, min=2, metavar="N", help="Folds of the training rows in which parameters are selected.")
]
Trials = Annotated[
    int | None,
    option(panel=HEAD, min=1, metavar="N", help="Search N settings that Optuna proposes, instead of a grid."),
]
Halving = Annotated[
    bool,
    option(
        "--halving/--no-halving",
        panel=HEAD,
        help="Drop the worse half of a grid's settings at set epochs, by inner loss (mlp, heads over tokens).",
    ),
]

# Encoder

Encoder = Annotated[
    str,
    option(panel=ENCODER, metavar="SPEC", help="A name (headwater encoders), or timm:MODEL, hf:ORG/NAME, …."),
]
Weights = Annotated[
    Path | None, option(panel=ENCODER, metavar="FILE|DIR", help="Local weights to use instead, or a model's folder.")
]
Adapter = Annotated[
    Path | None,
    option(panel=ENCODER, metavar="RUN", help="Run of fine-tune, or a peft folder, whose weights are applied on top."),
]
Layer = Annotated[
    str | None,
    option(panel=ENCODER, metavar="LAYER", help="timm: stage3, or stage2,stage4. Decoders: last, or a number."),
]
Pooling = Annotated[
    str | None,
    option(
        panel=ENCODER,
        metavar="POOLING",
        help="How tokens become a vector: cls, mean, cls+mean, max or last; for decoders last-token, "
        "mean-image-tokens or mean.",
    ),
]
Prompt = Annotated[
    str | None,
    option(panel=ENCODER, metavar="WORDS", help="Prompt of a decoder: words around {image}, {text} or both."),
]
ImageSize = Annotated[
    str | None,
    option(panel=ENCODER, metavar="N|HxW", help="Resize images to this size, instead of the encoder's own."),
]
Licence = Annotated[
    Literal["any", "commercial"],
    option(panel=ENCODER, help="commercial: only encoders that are known to allow commercial use."),
]
Trust = Annotated[
    bool,
    option("--trust-remote-code", panel=ENCODER, help="Run code that a model, run or store brings, with your rights."),
]
Window = Annotated[
    str | None,
    option(
        panel=ENCODER,
        metavar="voi|minmax|full|CENTRE,WIDTH",
        help="Values of a DICOM image from black to white: --step window=…. Default: voi, as the file says.",
    ),
]
Decode = Annotated[
    str | None,
    option(
        panel=ENCODER,
        metavar="half|quarter|auto",
        help="Resolution at which JPEG 2000 in DICOM is decoded: --step decode=…. Default: full.",
    ),
]
Steps = Annotated[
    list[str] | None,
    option(
        "--step",
        panel=ENCODER,
        metavar="STEP",
        help="Image step before the encoder: mammogram, resize=HxW, macenko, …; repeat.",
    ),
]
Tokens = Annotated[str, option(panel=ENCODER, metavar="none|all|N", help="Also store token features.")]

# Computing

Device = Annotated[Literal["auto", "cpu", "cuda"], option(panel=COMPUTING, help="Where to compute.")]
Precision = Annotated[Literal["auto", "fp32", "bf16", "fp16"], option(panel=COMPUTING, help="Number format.")]
BatchSize = Annotated[int, option(panel=COMPUTING, min=1, help="Items encoded together.")]
Workers = Annotated[int | None, option(panel=COMPUTING, min=1, help="Threads that read files. Default: one a core.")]

# Report

By = Annotated[str | None, option(panel=REPORT, metavar="COL", help="Also report each value of this column.")]
Calibrate = Annotated[
    Literal["temperature", "isotonic"] | None,
    option(panel=REPORT, help="Calibrate scores, inside the training rows."),
]
Sensitivity = Annotated[
    float | None, option(panel=REPORT, help="Report a threshold for this sensitivity, chosen on training rows.")
]
Specificity = Annotated[float | None, option(panel=REPORT, help="The same for a specificity.")]
Conformal = Annotated[
    float | None,
    option(panel=REPORT, metavar="ALPHA", help="Prediction sets that miss the class in at most this share."),
]
PerClass = Annotated[
    bool, option("--conformal-per-class", panel=REPORT, help="Let that hold for each class by itself.")
]
Prevalence = Annotated[
    float | None,
    option(
        panel=REPORT,
        metavar="SHARE",
        help="Restate predictive values for this share of positive cases, such as 0.006 in screening.",
    ),
]
Per = Annotated[str | None, option(panel=REPORT, metavar="COL", help="Also report at this level, such as the patient.")]
Aggregated = Annotated[
    Literal["mean", "max", "noisy-or"] | None,
    option(panel=REPORT, help="How to combine sample scores for --per. Default: mean."),
]
Resampled = Annotated[
    str | None,
    option(
        "--groups",
        panel=REPORT,
        metavar="COL|none",
        help="Column whose values are resampled for intervals, such as the patient.",
    ),
]
Level = Annotated[float, option(panel=REPORT, help="Confidence level of the intervals.")]
Draws = Annotated[int, option(panel=REPORT, help="Resamples of the bootstrap.")]

# Output

Out = Annotated[Path | None, option(panel=OUTPUT, metavar="RUN", help="Run directory to write.")]
Json = Annotated[bool, option("--json", panel=OUTPUT, help="Print JSON, for scripts.")]


def require_label(label: list[str] | None, task: str) -> None:
    """Refuse a command without a label as a usage error; survival has times in its place."""
    if label is None and task != "survival":
        raise typer.BadParameter("missing option --label COL (or --task survival with --time and --event).")


def params_of(assignments: list[str]) -> dict[str, Any]:
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


def mapping_of(option: str, words: list[str]) -> dict[str, str | None]:
    """Read ``LABEL=CLASS``, at the last equals sign, where ``LABEL=`` is a label to leave out; or files of such."""
    from headwater.api import read_mapping
    from headwater.errors import InputError

    mapping: dict[str, str | None] = {}
    for word in words:
        name, equals, target = word.rpartition("=")
        if name and equals:
            found: dict[str, str | None] = {name: target or None}
        elif Path(word).suffix:
            found = read_mapping(word, option)
        else:
            raise InputError(f"{option} {word}: write LABEL=CLASS, or LABEL= to leave the label out.")
        for name in found:
            if name in mapping:
                raise InputError(f"{option} {word}: {name} was mapped before. Pass it once.")
        mapping |= found
    return mapping


def params_of_heads(assignments: list[str]) -> dict[str, dict[str, Any]]:
    """Read ``HEAD.PARAM=VALUE``, to parameters by head."""
    from headwater.errors import InputError

    params: dict[str, dict[str, Any]] = {}
    for name, value in params_of(assignments).items():
        head, dot, param = name.partition(".")
        if not dot or not head or not param:
            raise InputError(f"--set {name}=…: write HEAD.PARAM=VALUE, such as linear.C=[0.1,1].")
        params.setdefault(head, {})[param] = value
    return params


def steps_of(given: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the image steps of a command's options: how files are read, then ``--step``."""
    reading = (f"{name}={given[name]}" for name in ("window", "decode") if given[name] is not None)
    return (*reading, *(given["step"] or ()))
