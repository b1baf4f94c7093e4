"""
D10: Contrastive pre-training on images and reports
===================================================

Before it is tuned, an image encoder can learn which text belongs to which image. The study did this with its own
mammograms and reports in two ways, and then tuned the encoder for malignancy on RSNA. In CLIP, an image has its own
text. In multi-view CLIP, all views of an exam share a text and are thus alike. The data set of the pairs is given by
``--external DIR``.
"""

from pathlib import Path

import headwater as hw
import polars as pl
from support import Recipe, small_mammography

recipe = Recipe("D10", "contrastive pre-training on images and reports")
target = recipe.manifest("rsna-mammo", lambda folder: small_mammography(folder, n_patients=50))
sets = ("cbis-ddsm", "vindr-mammo")
source = recipe.external(sets, lambda folder: small_mammography(folder, n_patients=50, seed=1), required=True)
whole = "exam" if recipe.kinds[1] == "vindr-mammo" else "patient"

# %%
# The pairs. Public sets of mammograms have no reports, so a template writes them from metadata. Its text is that of the
# exam, the same for every view; a sentence in front of it makes it the text of one view.

path = recipe.out / "pairs.parquet"
hw.text(source, template=Path(__file__).parent / "d_report.toml", out=path, column="of_exam", groups=whole)
of_view = pl.format("{} view of the {} breast. {}", pl.col("view").fill_null("Unknown"), "laterality", "of_exam")
pl.read_parquet(path).with_columns(of_view.alias("of_image")).write_parquet(path)

# %%
# Contrastive training of all weights of the image encoder; BioClinicalBERT stays frozen. Images that share a text are
# not contrasted with it. headwater reports how often the matching item is among the nearest, on a fifth of the pairs.

how = {"image_size": "96x64" if recipe.small else recipe.image_size("1520x912"), "steps": ["background=40", "breast"]}
images = recipe.encoder("timm:resnet34.a1_in1k", small="timm-conv", **how)
texts = recipe.encoder("hf:emilyalsentzer/Bio_ClinicalBERT", small="clip-bert", reads="text")
asked = {"lr": 5e-5, "weight_decay": 1e-4, "warmup": 1, "batch_size": 128, "accumulate": 8}
if recipe.small:
    asked |= {"lr": 1e-3, "batch_size": 32, "accumulate": 1}
asked |= {"augment": ["affine", "elastic"], "progress": True}
pretrained = {"ImageNet alone": None}
joint = {"encoder": [images.spec, texts.spec], "weights": [str(images.weights or ""), str(texts.weights or "")]}
joint |= {"groups": whole, "train": ["image=full", "text=none"], "epochs": recipe.epochs(30, small=3)}
for name, column in (("CLIP", "of_image"), ("multi-view CLIP", "of_exam")):
    paired = hw.contrast(path, text=column, out=recipe.out / f"pairs/{name}", **joint, **how, **asked)
    print(name, paired, sep="\n")
    pretrained[name] = paired.path

# %%
# Tune each encoder for malignancy on the other data set, and compare it with one that never saw a pair.

runs = {}
split = {"folds": 2} if recipe.small else {"holdout": 0.2}
for name, adapter in pretrained.items():
    runs[name] = hw.fine_tune(
        target,
        encoder=hw.EncoderChoice(images.spec, weights=images.weights, adapter=adapter, **how),
        label="label",
        protocol=hw.Protocol(groups="patient", **split),
        train="full",
        epochs=recipe.epochs(30, small=1),
        refit=False,
        out=recipe.out / f"runs/{name}",
        **asked,
    )
print(hw.compare(list(runs.values())))

recipe.write(
    runs,
    published={"CLIP": {"auc": "0.7659 (RSNA)"}, "multi-view CLIP": {"auc": "0.7620 (RSNA)"}},
    metrics=["auc"],
    differs={
        "data": "two sets of 200 synthetic mammograms, of 50 patients each, by other seeds; texts from metadata",
        "weights": "a tiny ResNet of random weights; the text encoder of builtin:clip, which knows histology",
        "size": "96 x 64 pixels, 3 epochs on pairs and 1 of tuning",
        "protocol": "2 folds that keep patients whole",
    },
    on_data={"protocol": "one split, a fifth of the patients for testing; texts are made from metadata"},
)
