"""
Study: does the text help? Radiographs with notes
=================================================

Is it COVID-19? 276 chest radiographs have a clinical note. Image alone, note alone, both, and both with the notes of
other patients: if the last is as good as both, the pairing of image and note says nothing. Many notes name a finding or
a test, so what they add is what somebody already knew.
"""

import headwater as hw
from support import Recipe

recipe = Recipe("radiographs", "COVID-19 on radiographs with notes")
manifest = recipe.manifest("covid-chestxray")
encoder = recipe.encoder("timm:mobilenetv2_100", small="timm-conv")
store, runs = recipe.out / "features.hw", recipe.out / "runs"
hw.embed(manifest, store, encoder=encoder, image="image", name="mobilenet", progress=True)
hw.embed(manifest, store, encoder="builtin:ngram", text="notes", name="ngram", progress=True)

# %%
# The same radiographs for every run: those with a note. ``controls`` adds the shuffled pairs, and random features.

inputs = {
    "image": ["mobilenet/image"],
    "notes": ["ngram/text"],
    "both": ["mobilenet/image", "ngram/text"],
}
protocol = hw.Protocol(groups="patient")
selection = hw.Selection(where="modality = 'X-ray'", samples_with=("mobilenet/image", "ngram/text"))
made = {
    name: hw.fit_head(
        store,
        features=features,
        label="covid = finding LIKE '%COVID-19%'",
        controls=name == "both",
        protocol=protocol,
        selection=selection,
        allow_leakage="a note may be the same for several patients",
        out=runs / name,
        progress=True,
    )
    for name, features in inputs.items()
}
print(made["both"])

# %%
# Differences, by the corrected t-test over folds.

found = hw.compare(list(made.values()))
shuffled = made["both"].metrics["controls"]["shuffled pairs"]["difference"]["auc"]
said = "both minus both with shuffled notes: auc {value:+.3f} [{low:+.3f}, {high:+.3f}]".format(**shuffled)
hw.report([run.path for run in made.values()], names=list(made), out=recipe.out / "report.html", pictures=False)
recipe.write(
    made,
    published={},
    metrics=["accuracy", "f1_macro", "auc"],
    differs={},
    conclusions=[*(d.verdict for d in found.differences), said],
)
