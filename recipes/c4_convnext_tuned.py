"""
C4: ConvNeXt, tuned end to end
==============================

All weights of a ConvNeXt, pretrained on photographs, are trained to tell the category of breast density. In the paper
it is better than BiomedCLIP, zero-shot or with a linear probe.
"""

import headwater as hw
from support import Recipe, mammography

recipe = Recipe("C4", "ConvNeXt tuned end to end")

# %%
# The data set needs the columns ``density`` and ``patient``: RSNA has the four categories A to D of BI-RADS, MIAS three
# of its own. The paper does not say which ConvNeXt it takes; this is the smallest.

manifest = recipe.manifest("rsna-mammo", small=mammography)
encoder = recipe.encoder("timm:convnext_tiny.fb_in22k_ft_in1k", small="clip-convnext")

# %%
# Train from a linear probe on the frozen network, which is reported beside the result, with the data, folds and options
# of C3: ``headwater compare`` can set the two runs side by side.

run = hw.fine_tune(
    manifest,
    encoder=encoder,
    image="image",
    label="density",
    groups="patient",
    folds=3 if recipe.small else 5,
    train="full",
    lr=1e-4,
    augment=["flip", "affine"],
    epochs=recipe.epochs(30, small=2),
    image_size=recipe.image_size(),
    refit=False,
    out=recipe.out / "run",
    progress=True,
)
print(run)
hw.plot(run.path, out=recipe.out / "figures")

GIVEN = "five folds by patient; the paper gives neither its split nor its settings; F1 is the mean over categories"
recipe.write(
    {"": run},
    published={"": {"accuracy": 0.73, "f1_macro": 0.78}},
    metrics=["accuracy", "f1_macro", "auc"],
    differs={
        "data": "synthetic mammograms, 240 of 60 patients",
        "weights": "a small ConvNeXt, trained on synthetic histology",
        "size": "2 epochs",
        "protocol": "3 folds by patient instead of 5",
    },
    on_data={"data": f"{len(run.metrics['classes'])} categories of density; the paper has four", "protocol": GIVEN},
)
