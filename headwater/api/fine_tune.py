"""fine-tune: train encoder and head together, with the splits and metrics of fit-head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headwater._checks import require_names
from headwater._options import with_options
from headwater._progress import Progress, progress_to
from headwater.embed.choice import EncoderChoice
from headwater.embed.plan import ManifestColumns
from headwater.evaluate.options import Protocol
from headwater.experiment.head import HeadChoice
from headwater.experiment.tune import TunePlan
from headwater.finetune.options import Training
from headwater.finetune.reading import TunedEncoders, first_choice
from headwater.runs.run import Run
from headwater.runs.write import run_folder
from headwater.samples.label_names import with_merge
from headwater.samples.label_sql import defined_labels
from headwater.samples.selection import Selection

USED = {"groups", "folds", "split", "holdout", "by", "per", "aggregate", "positive", "seed", "seeds"}
USED |= {"calibrate", "sensitivity", "specificity", "conformal", "conformal_per_class", "prevalence"}
USED |= {"where", "bags", "views", "label_separator", "merge", "missing_values"}
USED |= {"weights", "adapter", "layer", "pooling", "prompt", "image_size", "steps", "image", "text", "id"}
"""Options that it uses, besides all of `headwater.Training`."""


def fine_tune(
    manifest: str | Path,
    *,
    encoder: str | Sequence[str] | EncoderChoice,
    label: str | Sequence[str],
    head: str = "linear",
    params: Mapping[str, Any] | None = None,
    weights: str | Path | Sequence[str | Path] = (),
    allow_leakage: str | None = None,
    columns: ManifestColumns | None = None,
    protocol: Protocol | None = None,
    selection: Selection | None = None,
    training: Training | None = None,
    out: str | Path | None = None,
    progress: Progress | bool | None = None,
    **options: Any,
) -> Run:
    """Train an encoder, or a part of it, together with a head, and evaluate both on test rows.

    In each fold the head is first selected and fitted on features of the frozen encoder, as in `fit_head`; training
    starts from there. The same head on frozen features is evaluated on the same rows, so that the gain from training
    can be reported. Early stopping uses some of the training rows, held out in whole groups.

    Parameters
    ----------
    manifest
        A CSV, TSV, Parquet or JSON-lines file, or a folder with one subfolder per class.
    encoder
        The encoder of the samples, or two encoders, for images and for texts. A spec, or an `headwater.EncoderChoice`.
    label
        The column to predict; several columns of 0 and 1, or one column of lists, make a multi-label task.
    head, params
        Kind of head, one that is trained by gradients, and its parameters, as in `fit_head`.
    weights
        Local state dicts to load instead of the encoders' named weights.
    allow_leakage
        As in `fit_head`.
    columns, protocol, selection, training
        Columns of the manifest, how the head is evaluated, which samples are used, and how the encoder is trained. With
        one encoder for both images and texts, naming ``text`` makes the text an input beside the image.
    out
        The run directory to write. The same command continues a stopped run, with the same result.
    progress
        Where events go: None for nowhere, True for standard error, or a callable; see `headwater.Event`.
    options
        Any field of `headwater.Training`, `headwater.ManifestColumns` and `headwater.EncoderChoice` (except ``tokens``
        and ``trust_remote_code``), such as ``train="lora"`` or ``epochs=10``; ``groups``, ``folds``, ``split``,
        ``holdout``, ``by``, ``per``, ``aggregate``, ``positive`` and ``seed`` of `headwater.Protocol`; and ``where``,
        ``bags``, ``views``, ``label_separator``, ``merge`` and ``missing_values`` of `headwater.Selection`.

    Returns
    -------
    Run

    Raises
    ------
    InputError, ManifestError, EncoderError, HeadError, SplitError, ImageError
        Each with one line that says what, where and what to do.

    References
    ----------
    Kumar et al., Fine-tuning can distort pretrained features and underperform out-of-distribution, 2022, for
    starting from the fitted head.
    """
    choice, columns, protocol, selection, training = with_options(
        "fine_tune",
        options,
        first_choice(encoder),
        columns or ManifestColumns(),
        protocol or Protocol(),
        selection or Selection(),
        training or Training(),
        only=USED | set(vars(Training())),
    )
    labels, sql = defined_labels(require_names("--label", label))
    plan = TunePlan(
        manifest=Path(manifest),
        encoders=TunedEncoders.of(encoder, weights, choice, columns),
        labels=labels,
        head=HeadChoice.of(head, params or {}),
        params=dict(params or {}),
        protocol=protocol,
        selection=with_merge(selection),
        training=training,
        allow_leakage=allow_leakage,
        label_sql=sql,
    )
    plan.refuse()
    return plan.run(run_folder(out), progress_to(progress))
