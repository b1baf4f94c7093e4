"""
A1: ResNet-34, trained in full
==============================

All weights of a ResNet-34 are trained on BreakHis, separately at each magnification, in five folds that keep patients
whole. The model of one magnification is then tested on BACH, a data set of another hospital, without any change.
"""

import headwater as hw
from support import Recipe, histology

recipe = Recipe("A1", "ResNet-34, all weights trained")
manifest = recipe.manifest("breakhis")
encoder = recipe.encoder("timm:resnet34.a1_in1k", small="timm-conv")

# %%
# Train at each magnification. A part of the training patients is held out to choose the epoch.

runs = {}
for level in (40, 100, 200, 400):
    runs[f"{level}x"] = hw.fine_tune(
        manifest,
        encoder=encoder,
        label="label",
        groups="patient",
        where=f"magnification = {level}",
        train="full",
        start="random" if recipe.small else "probe",
        lr=1e-3 if recipe.small else 1e-4,
        epochs=3 if recipe.small else 30,
        folds=3 if recipe.small else 5,
        out=recipe.out / f"runs/{level}x",
    )
print(hw.table([run.path for run in runs.values()], names=list(runs)))

# %%
# Test the model of the highest magnification on BACH, whose four classes are mapped to benign or malignant.

external = recipe.external("bach", lambda folder: histology(folder, magnifications=(400,), seed=1))
if external:
    adapter = runs["400x"].path
    hw.embed(external, recipe.out / "external.hw", encoder=encoder, adapter=adapter, name="tuned", progress=True)
    runs["BACH"] = hw.evaluate(
        adapter,
        recipe.out / "external.hw",
        features="tuned/image",
        label="label",
        groups="patient",
        out=recipe.out / "runs/external",
    )

recipe.write(
    runs,
    published={
        "40x": {"accuracy": "0.9879 ± 0.006", "auc": 0.9984},
        **{at: {"accuracy": "0.9698 or more"} for at in ("100x", "200x", "400x")},
        "BACH": {"accuracy": 0.7825, "auc": 0.7824},
    },
    metrics=["accuracy", "f1", "auc"],
    differs={
        "data": "synthetic histology, 48 images of 24 patients at each magnification; BACH: another seed, other stains",
        "weights": "a tiny ResNet of random weights",
        "size": "3 epochs",
        "protocol": "3 folds instead of 5",
    },
)
