"""fine-tune --objective contrastive: image and text encoders trained on pairs, to find each other's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from headwater._devices import Precision
from headwater._missing import words_of
from headwater.experiment.contrast import Contrasted, Contrasting
from headwater.experiment.fit import several
from headwater.finetune.adapt import BatchNorm, LoraSettings
from headwater.finetune.contrastive import ContrastiveLoss
from headwater.finetune.loop import Settings
from headwater.finetune.options import LEARNING_RATES
from headwater.finetune.reading import Asked
from headwater.runs.write import run_folder


def contrast(
    manifest: str | Path,
    *,
    encoder: str | Sequence[str],
    train: str | Sequence[str] = "full",
    loss: ContrastiveLoss = "clip",
    dim: int = 256,
    weights: str | Path | Sequence[str | Path] = (),
    adapter: str | Path | None = None,
    image: str | None = None,
    text: str | None = None,
    id: str | None = None,
    groups: str | None = None,
    holdout: float = 0.2,
    split: str | None = None,
    where: str | None = None,
    allow_leakage: str | None = None,
    prompts: str | Path | None = None,
    label: str | None = None,
    missing_values: str | Sequence[str] | None = None,
    seed: int = 0,
    steps: Sequence[str] = (),
    image_size: str | None = None,
    augment: Sequence[str] = (),
    batch_norm: BatchNorm = "keep",
    lora: LoraSettings | None = None,
    lr: float | None = None,
    head_lr: float = 1e-3,
    weight_decay: float = 1e-4,
    epochs: int = 30,
    warmup: float = 1.0,
    batch_size: int = 64,
    accumulate: int = 1,
    patience: int | None = 5,
    stop_share: float = 0.15,
    clip: float = 1.0,
    checkpoint_gradients: bool = False,
    precision: Precision = "auto",
    device: str = "auto",
    workers: int | None = None,
    out: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
    bar: bool = False,
) -> Contrasted:
    """Train a dual encoder, or a part of it, on the images of a manifest and their texts.

    Images that share a text, such as the views of one exam and its report, all go with it. Some pairs, whole groups of
    them, are held out to test by; others to stop by.

    Parameters
    ----------
    manifest, weights, adapter, image, text, id, groups, where, missing_values
        As in `fine_tune`; each sample has an image and a text.
    encoder
        A dual encoder, such as ``open_clip:…`` or ``hf:…`` of a CLIP or SigLIP; or two, for images and for texts, which
        are joined by linear projections: the result is the encoder ``joined:RUN``.
    train
        ``lora``, ``last-N`` or ``full`` for both towers, or ``image=none`` and ``text=full`` to lock one, which is then
        encoded once.
    loss
        ``clip`` or ``siglip``; see `headwater.finetune.contrastive.contrast`.
    dim
        Length of the common vectors of two encoders.
    holdout, split
        The share of the pairs to test by; or a column with ``train`` and ``test``.
    allow_leakage
        Why it is no matter that the same image, byte for byte, is among the pairs to test by and among the others,
        which is refused otherwise. The same text is counted alone: reports are written from templates.
    prompts, label
        A TOML file of what describes each value of a column: zero-shot classification of the test images is measured
        too.
    batch_size, accumulate
        Pairs that are told apart in a step, and in how many parts they are encoded: the same step by less memory.
    steps, image_size, augment, batch_norm, lora, lr, head_lr, weight_decay, epochs, warmup, patience, stop_share, \
clip, checkpoint_gradients, precision, device, workers, seed, out, progress, bar
        As in `fine_tune`; ``head_lr`` is that of the scale of cosines.

    Raises
    ------
    InputError, ManifestError, EncoderError, HeadError, SplitError, ImageError
        Each with one line that says what, where and what to do.
    """
    asked = Asked(
        encoders=several(encoder),
        weights=tuple(str(path) for path in ([weights] if isinstance(weights, str | Path) else weights)),
        adapter=None if adapter is None else str(adapter),
        train=several(train),
        image=image,
        text=text,
        id=id,
        steps=tuple(steps),
        image_size=image_size,
    )
    how = asked.how()
    settings = Settings(
        lr=lr
        if lr is not None
        else min((LEARNING_RATES[h.kind] for h in how.values() if h.kind != "none"), default=1.0),
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
    )
    contrasting = Contrasting(
        manifest=Path(manifest),
        asked=asked,
        loss=loss,
        dim=dim,
        settings=settings,
        groups=groups,
        holdout=holdout,
        split=split,
        where=where,
        allow_leakage=allow_leakage,
        prompts=None if prompts is None else str(prompts),
        label=label,
        missing_values=words_of(missing_values),
        augment=tuple(augment),
        batch_norm=batch_norm,
        lora=lora or LoraSettings(),
        stop_share=stop_share,
        checkpoint_gradients=checkpoint_gradients,
        device=device,
    )
    contrasting.refuse()
    return contrasting.run(run_folder(out), progress or (lambda line: None), bar=bar)
