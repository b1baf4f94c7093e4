"""
B4: ResNet-18 and DistilBERT, concatenated
==========================================

Two encoders that were not trained together: a ResNet-18 reads the image, DistilBERT the caption, and both stay frozen.
A network of four layers predicts the labels from the two vectors, one after the other. The paper found this worse than
the ResNet-18 alone.
"""

import headwater as hw
from support import Recipe, multilabel_histology

recipe = Recipe("B4", "ResNet-18 and DistilBERT frozen, concatenated")

# %%
# The data set is one row per image-caption pair. The column ``pathology`` holds its labels, with semicolons between.
# Labels that mean the same are united by ``merge.csv``, a table of the user with the columns ``from`` and ``to``. Pairs
# without a caption or a corrected caption are left out, as in the paper.

manifest = recipe.manifest("quilt", small=multilabel_histology)
labels = {"label": "pathology", "label_separator": ";", "merge": recipe.beside("merge.csv")}
complete = "text IS NOT NULL AND corrected_text IS NOT NULL"

# %%
# Embed images by one encoder and captions by the other, into one store.

store = recipe.out / "features.hw"
resnet = recipe.encoder("torchvision:resnet18/IMAGENET1K_V1", small="clip-convnext")
distilbert = recipe.encoder("hf:distilbert/distilbert-base-uncased", small="clip-bert")
hw.embed(manifest, store, encoder=resnet, image="image", text="text", name="resnet18", progress=True)
hw.embed(manifest, store, encoder=distilbert, image="image", text="text", name="distilbert", progress=True)

# %%
# The same head on both inputs and on the image alone, with the same fifth of the pairs as the test set. The difference
# is given with an interval that resamples videos.

inputs = {"ResNet-18 and DistilBERT": ["resnet18/image", "distilbert/text"], "ResNet-18": "resnet18/image"}
runs = {
    at: hw.fit_head(
        store,
        features=features,
        head="mlp",
        params={"hidden": [512, 512, 512], "lr": 1e-3, "dropout": 0.1},
        **labels,
        where=complete,
        groups="video",
        holdout=0.2,
        out=recipe.out / "runs" / at,
    )
    for at, features in inputs.items()
}
print(hw.table([run.path for run in runs.values()], names=list(runs)))
print(hw.compare([run.path for run in runs.values()], metric="auc_micro"))

SPLIT = "videos stay whole; the paper divides pairs at random"
recipe.write(
    runs,
    published={"ResNet-18 and DistilBERT": {"auc_micro": "worse than ResNet-18 alone"}},
    metrics=["auc_micro", "top3_f1_micro", "top3_f1_macro", "top3_hamming", "top3_1", "top3_2", "top3_3"],
    differs={
        "data": "synthetic histology, 240 pairs of 120 patients, three of 14 labels each",
        "weights": "a small ConvNeXt and a small BERT, trained together on other synthetic histology",
        "protocol": SPLIT,
    },
    on_data={"protocol": SPLIT},
)
