"""contrast: contrastive training of image and text encoders on pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headwater._options import with_options
from headwater._progress import Progress, progress_to
from headwater.embed.choice import EncoderChoice
from headwater.embed.plan import ManifestColumns
from headwater.evaluate.options import Protocol
from headwater.experiment.contrast import Contrasted, ContrastPlan
from headwater.finetune.contrastive import ContrastiveLoss
from headwater.finetune.options import CONTRAST, Training
from headwater.finetune.reading import TunedEncoders, first_choice
from headwater.runs.write import run_folder
from headwater.samples.label_sql import defined_labels
from headwater.samples.selection import OF_PAIRS, Selection

USED = {*OF_PAIRS, "weights", "adapter", "image_size", "steps", "image", "text", "id"}
USED |= set(vars(CONTRAST)) - {"start", "refit"}
"""Options that it uses."""


def contrast(
    manifest: str | Path,
    *,
    encoder: str | Sequence[str] | EncoderChoice,
    loss: ContrastiveLoss = "clip",
    dim: int | None = None,
    weights: str | Path | Sequence[str | Path] = (),
    prompts: str | Path | None = None,
    label: str | None = None,
    allow_leakage: str | None = None,
    columns: ManifestColumns | None = None,
    training: Training | None = None,
    out: str | Path | None = None,
    progress: Progress | bool | None = None,
    **options: Any,
) -> Contrasted:
    """Train a dual encoder, or a part of it, on the images of a manifest and their texts.

    All images that share a text, such as the views of one exam and its report, are positives for it. Some pairs, in
    whole groups, are held out for testing, and others for early stopping.

    Parameters
    ----------
    manifest
        A CSV, TSV, Parquet or JSON-lines file; each sample has an image and a text.
    encoder
        A dual encoder, such as ``open_clip:…`` or ``hf:…`` of a CLIP or SigLIP. Or two encoders, for images and for
        texts, which are joined by linear projections: the result is the encoder ``joined:RUN``.
    loss
        ``clip`` or ``siglip``; see `headwater.finetune.contrastive.contrast`.
    dim
        Dimension of the joint embedding of two encoders. Default: 256.
    weights
        Local state dicts to load instead of the encoders' named weights.
    prompts, label
        A TOML file with texts for each value of the column ``label``, to evaluate zero-shot classification of the test
        images too.
    allow_leakage
        Reason to accept the same image in test pairs and in other pairs (otherwise refused). Identical texts are
        counted but not refused, since reports are written from templates.
    columns, training
        Columns of the manifest, and how the encoders are trained. Default: both towers in full, 64 pairs per step, and
        a learning rate of 1e-3 for the logit scale and the projections.
    out
        The run directory to write. The same command continues a stopped run, with the same result.
    progress
        Where events go: None for nowhere, True for standard error, or a callable; see `headwater.Event`.
    options
        Any field of `headwater.Training` (but for ``start`` and ``refit``) and of `headwater.ManifestColumns`;
        ``adapter``, ``image_size`` and ``steps`` of `headwater.EncoderChoice`; and ``groups``, ``split``, ``holdout``
        (a share of 0.2 by default), ``seed``, ``where`` and ``missing_values``.

    Raises
    ------
    InputError, ManifestError, EncoderError, HeadError, SplitError, ImageError
        Each with one line that says what, where and what to do.
    """
    choice, columns, protocol, selection, training = with_options(
        "contrast",
        options,
        first_choice(encoder),
        columns or ManifestColumns(),
        Protocol(),
        Selection(),
        training or CONTRAST,
        only=USED,
    )
    (name, *_), sql = ((None,), {}) if label is None else defined_labels([label])
    plan = ContrastPlan(
        manifest=Path(manifest),
        encoders=TunedEncoders.of(encoder, weights, choice, columns),
        loss=loss,
        dim=dim,
        protocol=protocol,
        selection=selection,
        training=training,
        allow_leakage=allow_leakage,
        prompts=None if prompts is None else str(prompts),
        label=name,
        label_sql=sql,
    )
    plan.refuse()
    return plan.run(run_folder(out), progress_to(progress))
