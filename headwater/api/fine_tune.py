"""fine-tune: encoder and head trained together, on the splits and by the metrics of fit-head."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from headwater._devices import Precision
from headwater.evaluate.aggregate import How as Aggregation
from headwater.evaluate.labelling import Labelling
from headwater.evaluate.options import Protocol
from headwater.experiment.fit import several
from headwater.experiment.head import Chosen
from headwater.experiment.tune import HEAD_LR, Start, Tuning
from headwater.finetune.adapt import BatchNorm, LoraSettings
from headwater.finetune.loop import Settings
from headwater.finetune.reading import Asked
from headwater.runs.run import Run
from headwater.runs.write import run_folder


def fine_tune(
    manifest: str | Path,
    *,
    encoder: str | Sequence[str],
    label: str | Sequence[str],
    train: str | Sequence[str] = "lora",
    head: str = "linear",
    params: Mapping[str, Any] | None = None,
    weights: str | Path | Sequence[str | Path] = (),
    adapter: str | Path | None = None,
    image: str | None = None,
    text: str | None = None,
    id: str | None = None,
    groups: str | None = None,
    folds: int | None = None,
    split: str | None = None,
    holdout: float | None = None,
    where: str | None = None,
    by: str | None = None,
    bags: str | None = None,
    views: str | None = None,
    per: str | None = None,
    aggregate: Aggregation | None = None,
    label_separator: str | None = None,
    missing_values: str | Sequence[str] | None = None,
    positive: str | None = None,
    allow_leakage: str | None = None,
    seed: int = 0,
    start: Start = "probe",
    steps: Sequence[str] = (),
    image_size: str | None = None,
    layer: str | None = None,
    pooling: str | None = None,
    prompt: str | None = None,
    augment: Sequence[str] = (),
    batch_norm: BatchNorm = "keep",
    lora: LoraSettings | None = None,
    lr: float | None = None,
    head_lr: float = HEAD_LR,
    weight_decay: float = 1e-4,
    epochs: int = 30,
    warmup: float = 1.0,
    batch_size: int = 32,
    accumulate: int = 1,
    patience: int | None = 5,
    stop_share: float = 0.15,
    clip: float = 1.0,
    checkpoint_gradients: bool = False,
    precision: Precision = "auto",
    device: str = "auto",
    workers: int | None = None,
    refit: bool = True,
    out: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
    bar: bool = False,
) -> Run:
    """Train an encoder, or a part of it, together with a head, and evaluate both on rows that training never saw.

    In each fold the head is first selected and fitted on the features of the encoder as it is, just as `fit_head` does
    it; then all is trained from there, so that what training adds can be told: the same head on frozen features is
    evaluated on the same rows. Training stops early by training rows that are held out, whole groups of them.

    Parameters
    ----------
    manifest
        A CSV, TSV, Parquet or JSON-lines file, or a folder with one subfolder a class.
    encoder
        What reads the samples; two, for images and for texts. See `headwater.embed.load_encoder`.
    label
        The column to predict; several columns of 0 and 1, or one column of lists, make a multi-label task.
    train
        ``lora``, ``last-N``, ``full`` or ``none``, for all inputs; or ``image=lora`` and ``text=none``, for each.
        What is ``none`` is encoded once.
    head, params
        Kind of head, of those that are trained by gradients, and its parameters, as `fit_head` takes them.
    weights
        Local state dicts to use in place of the encoders' named weights.
    adapter
        A run of ``fine_tune`` to go on from.
    image, text, id
        Columns of the manifest. With one encoder of both, naming ``text`` makes it an input beside the image.
    groups, folds, split, holdout, where, by, per, aggregate, label_separator, missing_values, positive, \
allow_leakage, seed
        As in `fit_head`.
    views
        As in `fit_head`: each view of a case is an input of its own, which one encoder reads.
    bags
        For multiple-instance learning: the column whose values make one bag of the samples that share them.
    start
        ``probe`` starts from the head that was fitted on frozen features; ``random`` draws a new one.
    steps
        What is done to an image before all else; see `headwater.sources.steps.parse_steps`.
    image_size
        Pixels that images are brought to instead of the encoder's own; see `headwater.embed.load_encoder`.
    layer, pooling
        Where in the encoder features are taken, and how a decoder's states become one vector; see there.
    prompt
        What a decoder reads: words around ``{image}``, ``{text}`` or both, which makes pairs the input.
    augment
        Families of random changes of images in training; see `headwater.finetune.augment.Augmentation`.
    batch_norm
        ``keep`` leaves the statistics of batch norms as they came; ``update`` goes by each batch's.
    lora
        Of low-rank adapters.
    lr, head_lr
        Highest learning rates; of the encoder 2e-4 for LoRA, 2e-5 for last blocks and 1e-5 for all, when left out.
    weight_decay, epochs, warmup, batch_size, accumulate, patience, clip, precision, workers
        See `headwater.finetune.loop.Settings`.
    stop_share
        Share of the training rows that are held out to stop by.
    checkpoint_gradients
        Compute activations again in the backward pass instead of keeping them: less memory, more time.
    device
        ``auto``, ``cpu`` or ``cuda``.
    refit
        Whether to train once more on all rows, for the encoder and head that the run keeps; without, it keeps those of
        the first fold.
    out
        The run directory to write. A run that was stopped goes on with the same command, to the same result.
    progress
        Called with a line about each step.
    bar
        Show progress bars on standard error.

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
    tuning = Tuning(
        manifest=Path(manifest),
        asked=Asked(
            encoders=several(encoder),
            weights=tuple(str(path) for path in ([weights] if isinstance(weights, str | Path) else weights)),
            adapter=None if adapter is None else str(adapter),
            train=several(train),
            image=image,
            text=text,
            id=id,
            steps=tuple(steps),
            image_size=image_size,
            layer=layer,
            pooling=pooling,
            prompt=prompt,
        ),
        labels=several(label),
        label_separator=label_separator,
        chosen=Chosen.of(head, params or {}),
        params=dict(params or {}),
        protocol=Protocol(
            groups=groups,
            folds=folds,
            split=split,
            holdout=holdout,
            by=by,
            seed=seed,
            per=per,
            aggregate=aggregate,
            labelling=Labelling.of(missing_values, positive),
        ),
        where=where,
        bags=bags,
        views=views,
        allow_leakage=allow_leakage,
        start=start,
        augment=tuple(augment),
        batch_norm=batch_norm,
        lora=lora or LoraSettings(),
        lr=lr,
        settings=Settings(
            lr=0.0,
            head_lr=head_lr,
            weight_decay=weight_decay,
            epochs=epochs,
            warmup=min(warmup, epochs / 2),
            batch_size=batch_size,
            accumulate=accumulate,
            patience=patience,
            clip=clip,
            precision=precision,
            seed=seed,
            workers=workers,
        ),
        stop_share=stop_share,
        checkpoint_gradients=checkpoint_gradients,
        device=device,
        refit=refit,
    )
    tuning.refuse()
    return tuning.run(run_folder(out), progress or (lambda line: None), bar=bar)
