"""What several commands take alike: options, and how their values are read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

Store = Annotated[
    str,
    typer.Argument(
        metavar="STORE", help="The store, a directory such as lung.hw or a URL such as s3://bucket/lung.hw."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Where = Annotated[str | None, typer.Option(metavar="SQL", help="Only samples for which this holds: 'age > 50'.")]
By = Annotated[str | None, typer.Option(metavar="COL", help="Give results for each value of this column too.")]
Out = Annotated[Path | None, typer.Option(metavar="RUN", help="The run directory to write.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Weights = Annotated[Path | None, typer.Option(metavar="FILE", help="A local state dict, safetensors or torch.")]
Adapter = Annotated[
    Path | None, typer.Option(metavar="RUN", help="A run of fine-tune: what it trained is put on top of the weights.")
]
Layer = Annotated[
    str | None,
    typer.Option(metavar="LAYER", help="timm: stage3, or stage2,stage4; vision-language decoder: last, or a number."),
]
Pooling = Annotated[
    str | None,
    typer.Option(
        help="How tokens make a vector: cls, mean, cls+mean, max or last; "
        "of a decoder last-token, mean-image-tokens or mean."
    ),
]
Prompt = Annotated[
    str | None, typer.Option(metavar="WORDS", help="What a decoder reads: words around {image}, {text} or both.")
]
ImageSize = Annotated[
    str | None, typer.Option(metavar="N|HxW", help="Pixels that images are brought to, instead of the encoder's own.")
]
Trust = Annotated[
    bool,
    typer.Option("--trust-remote-code", help="Run code that a model, a run or a store brings along, with your rights."),
]
Steps = Annotated[
    list[str] | None,
    typer.Option("--step", metavar="STEP", help="Before the encoder: mammogram, resize=HxW, macenko, …; repeat."),
]
Leakage = Annotated[
    str | None, typer.Option(metavar="REASON", help="Go on though the split leaks; kept in metrics.json.")
]
Trials = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Select among N settings that Optuna proposes, not a grid.")
]
TaskAsked = Annotated[
    str, typer.Option("--task", metavar="auto|regression", help="Whether labels are classes, or numbers to predict.")
]
InnerFolds = Annotated[
    int, typer.Option(min=2, metavar="N", help="Folds of the training rows in which settings are selected.")
]
Merge = Annotated[
    list[str] | None,
    typer.Option(metavar="LABEL=CLASS|FILE", help="Labels that mean the same, from a CSV of from,to, or TOML; repeat."),
]
MissingValues = Annotated[
    str | None,
    typer.Option(
        metavar="WORDS", help="Words for missing values, beside empty cells: NA,N/A,NaN,null by default; '' for none."
    ),
]
PositiveClass = Annotated[
    str | None,
    typer.Option("--positive", metavar="CLASS", help="The positive one of two classes."),
]
Seed = Annotated[int, typer.Option(min=0, help="The same seed gives the same result.")]
Groups = Annotated[str | None, typer.Option(metavar="COL|none", help="What a split must keep whole.")]
Drawn = Annotated[str | None, typer.Option(metavar="COL|none", help="What is drawn again for intervals.")]
Folds = Annotated[int | None, typer.Option(help="Folds of cross-validation; 5 by default.")]
Split = Annotated[str | None, typer.Option(metavar="COL", help="Column with train/test or fold numbers.")]
Holdout = Annotated[float | None, typer.Option(help="Share of samples to test once, instead of folds.")]
Bags = Annotated[
    str | None,
    typer.Option(metavar="COL", help="For mil heads and --views: what samples belong to."),
]
Views = Annotated[
    str | None, typer.Option(metavar="COL", help="Each view or magnification of a --bags case is an input of its own.")
]
Separator = Annotated[str | None, typer.Option(help="Splits the label's text into several labels.")]
Seeds = Annotated[int, typer.Option(min=1, help="Repeat all of it with so many seeds, from --seed on.")]
Per = Annotated[str | None, typer.Option(metavar="COL", help="Report exams or patients too, by this column.")]
Aggregated = Annotated[
    str | None, typer.Option(metavar="mean|max|noisy-or", help="How their samples' scores make one; mean.")
]
Level = Annotated[float, typer.Option(help="Of the intervals.")]
Draws = Annotated[int, typer.Option(help="Draws of the bootstrap.")]


def printable(line: str) -> str:
    """Return a line without characters that would move the cursor, turn text around or change a terminal's settings."""
    return _CONTROLS.sub("�", line)


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
