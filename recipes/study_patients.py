"""
Study: patients on both sides of a split
========================================

Images of one patient look alike, and so do tiles cut from one source. If some are trained on and others tested, a model
can recognise the patient instead of the disease. The same probe is tested twice: in folds that keep patients whole, and
in folds that do not. Run it on GlaS (165 images of 16 patients) and on the lung tiles of LC25000 (1,498 images made
from 300 source tiles).
"""

import headwater as hw
from support import Recipe

recipe = Recipe("patients", "Patients on both sides of a split")
manifest = recipe.manifest("glas")
encoder = recipe.encoder("timm:mobilenetv2_100", small="timm-conv")
store, runs = recipe.out / "features.hw", recipe.out / "runs"
hw.embed(manifest, store, encoder=encoder, image="image", name="mobilenet", progress=True)

# %%
# A split that divides patients is refused, unless a reason is given. The reason is kept in ``metrics.json``.

columns = hw.open_store(store).select().columns
groups = "source_tile" if "source_tile" in columns else "patient"
options = {"features": "mobilenet/image", "label": "label", "progress": True}
made = {
    "patients kept whole": hw.fit_head(store, groups=groups, out=runs / "patients kept whole", **options),
    "patients divided": hw.fit_head(
        store, groups="none", allow_leakage="to measure what it does", out=runs / "patients divided", **options
    ),
}

# %%
# Both runs tested the same images. Whatever the second gains it gains from images of the tested patients.

found = hw.compare(list(made.values()), metric="accuracy")
print(found)
hw.report([run.path for run in made.values()], names=list(made), out=recipe.out / "report.html", pictures=False)
recipe.write(
    made,
    published={},
    metrics=["accuracy", "f1_macro", "auc"],
    differs={},
    conclusions=[d.verdict for d in found.differences],
)
