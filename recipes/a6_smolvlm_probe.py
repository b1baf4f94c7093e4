"""
A6: SmolVLM, linear probe
=========================

As A4 with a smaller vision-language model: SmolVLM reads each image once, with nothing trained in it, and a logistic
regression classifies the last hidden state of its language decoder. On BreakHis, separately at each magnification, in
five folds that keep patients whole.
"""

import headwater as hw
from support import Recipe, histology

recipe = Recipe("A6", "SmolVLM, linear probe")
manifest = recipe.manifest("breakhis", lambda folder: histology(folder, n_patients=40))
encoder = recipe.encoder(
    "hf:HuggingFaceTB/SmolVLM-Instruct",
    small="hf-smolvlm",
    prompt="{image}Is this benign or malignant?",
    pooling="last-token",
)

# %%
# Embed every image once. The last hidden layer is not always the best one to classify from: a layer in the middle is
# embedded beside it.

store = recipe.out / "features.hw"
hw.embed(manifest, store, encoder=encoder, image="image", name="last", progress=True)
middle = 1 if recipe.small else 12
hw.embed(manifest, store, encoder=encoder, layer=middle, image="image", name="middle", progress=True)

# %%
# Fit a probe on the last layer at each magnification; then one on the middle layer, and compare the two at 200x.

common = {"label": "label", "groups": "patient", "folds": 5}
runs = hw.fit_separately(store, "magnification", features="last/image", out=recipe.out / "runs", **common)
print(hw.table([recipe.out / "runs"], metrics=["accuracy", "precision", "recall", "f1", "auc"]))
earlier = hw.fit_head(
    store, features="middle/image", where="magnification = 200", out=recipe.out / "middle layer", **common
)
print(hw.compare([runs["200"], earlier]))

# %%
# The paper gives the least and the greatest accuracy over magnifications.

runs = {f"{level}x": run for level, run in runs.items()}
recipe.write(
    {**runs, "200x, middle layer": earlier},
    published={at: {"accuracy": "0.8293 to 0.8884"} for at in runs},
    metrics=["accuracy", "precision", "recall", "f1", "auc"],
    differs={
        "data": "synthetic histology, 80 images of 40 patients at each magnification",
        "weights": "a tiny SmolVLM of random weights",
    },
    on_data={"protocol": "70 patients: blocks of one slide number stay together, which the paper counts as 82"},
)
