"""A user's own encoder: run from a file or a package, known by its code, and told in one line what it lacks."""

import sys
from pathlib import Path

import numpy as np
import pytest

from headwater.api import embed, similar
from headwater.embed import Content, content_key, load_again, load_encoder
from headwater.errors import EncoderError, ImageError, SpecMismatch

CODE = """
import numpy as np


class Mean:
    modalities = ("image", "text")

    def load(self, weights, device):
        self.scale = 1.0 if weights is None else float(weights.read_text())
        self.device = device

    def prepare(self, modality, item):
        if modality == "image":
            return np.asarray(item.resize((8, 8)), float) / 255
        if item == "no":
            raise ValueError("says no")
        return np.array([[float(len(item)), 1.0]])

    def encode(self, modality, batch):
        return np.stack([self.scale * one.reshape(-1, one.shape[-1]).mean(0) for one in batch])
"""


@pytest.fixture
def own(tmp_path):
    """Return a function that writes the file, changed, and gives its spec."""

    def write(*changes):
        code = CODE
        for old, new in changes:
            assert old in code
            code = code.replace(old, new)
        (tmp_path / "own.py").write_text(code)
        return f"python:{tmp_path / 'own.py'}:Mean"

    return write


def error_of(spec, **options):
    with pytest.raises(EncoderError) as caught:
        load_encoder(spec, device="cpu", **options)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{spec}: ")


def vector(encoder, modality, content):
    return encoder.encode(modality, [encoder.prepare(modality, content)]).pooled[0]


def test_it_is_called(own, image_files, tmp_path):
    """Vectors are what the class makes of the item, with its weights."""
    (tmp_path / "w.txt").write_text("3")
    plain = load_encoder(own(), device="cpu")
    tripled = load_encoder(own(), weights=tmp_path / "w.txt", device="cpu")
    content = Content(content_key(image_files[0].read_bytes()), image_files[0])
    np.testing.assert_allclose(vector(tripled, "image", content), 3 * vector(plain, "image", content), rtol=1e-6)
    assert vector(plain, "text", Content(b"", "four")).tolist() == [4, 1]
    assert tripled.environment()["weights_file"] == str(tmp_path / "w.txt")
    with pytest.raises(ImageError, match="ValueError: says no: no"):
        plain.prepare("text", Content(b"", "no"))


def test_code_and_weights_are_in_the_spec(own, tmp_path):
    """One byte of the file, or other weights, make another spec; and what runs is what was digested."""
    spec = load_encoder(own(), device="cpu").spec("image", "float16")
    assert load_encoder(own(), device="cpu").spec("image", "float16") == spec
    changed = load_encoder(own(("mean(0)", "max(0)")), device="cpu")
    assert vector(changed, "text", Content(b"", "four")).tolist() == [4, 1]
    with pytest.raises(SpecMismatch, match=r"preprocessing\.code: stored"):
        spec.require_same(changed.spec("image", "float16"), "f/image")
    (tmp_path / "w.txt").write_text("3")
    weighted = load_encoder(own(), weights=tmp_path / "w.txt", device="cpu").spec("image", "float16")
    assert weighted.preprocessing == spec.preprocessing
    assert weighted.weights != spec.weights == ""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("def encode", "def embed"), "Mean has no encode(modality, batch). See the page 'Your own encoder'"),
        (
            ("modalities =", "kinds ="),
            'Mean.modalities must be ("image",), ("text",) or ("image", "text"), not None.',
        ),
        (('"text")', '"sound")'), "not ('image', 'sound')."),
        (("class Mean", "class Men"), "has no class 'Mean'. Did you mean 'Men'? It has: Men."),
        (("import numpy", "import nunpy"), "cannot be run (ModuleNotFoundError: No module named 'nunpy')."),
        (("class Mean:", "class Mean"), "cannot be run (SyntaxError: "),
        (("self.device = device", "self.device = gpu"), "load() failed (NameError: name 'gpu' is not defined)."),
        (
            ("for one in batch])", "for one in batch[:1]])"),
            "encode() returned shape (1, 3) for 3 items, but must return shape (3, dim)",
        ),
        (
            ("np.stack([", "len(batch) * np.stack(["),
            "returns different vectors for one image alone and in a batch of 3 (",
        ),
        (("np.stack(", "sum("), "encode() returned shape (3,) for 1 items, but must return shape (1, dim)."),
    ],
)
def test_what_it_lacks(own, change, said):
    """What a class or a file lacks is said in one line."""
    assert said in error_of(own(change))


def test_specs_that_name_nothing(own, tmp_path):
    assert error_of("python:gone.py:Mean") == "gone.py: no such file. Write python:FILE.py:CLASS."
    assert error_of("python:gone").startswith("no installed package has an encoder of this name. ")
    assert error_of(own(), tokens="all").endswith("own.py:Mean has no tokens. Leave --tokens out.")
    assert error_of(own(), precision="fp16").endswith("chooses its precision itself. Leave --precision out.")
    assert error_of(own(), weights=tmp_path / "no") == f"--weights {tmp_path / 'no'}: no such file."


def test_an_installed_package(own, tmp_path, monkeypatch):
    """A package's entry point of the group ``headwater.encoders`` is an encoder by its name alone."""
    own()
    (tmp_path / "own.py").rename(tmp_path / "lab_encoders.py")
    info = tmp_path / "lab_encoders-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lab-encoders\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[headwater.encoders]\nlab-mean = lab_encoders:Mean\n")
    monkeypatch.syspath_prepend(tmp_path)
    encoder = load_encoder("python:lab-mean", device="cpu")
    assert vector(encoder, "text", Content(b"", "four")).tolist() == [4, 1]
    assert len(encoder.spec("text", "float16").preprocessing["code"]) == 32
    assert "Did you mean 'lab-mean'? Installed are: " in error_of("python:lab-men")
    sys.modules.pop("lab_encoders")


def test_a_store_runs_no_code_unasked(own, image_files, tmp_path):
    """Code that a store names runs when the user says so, and not before."""
    rows = [f"{i},{file},mass {'x' * i}" for i, file in enumerate(image_files)]
    (tmp_path / "m.csv").write_text("\n".join(["id,image,text", *rows]))
    done = embed(tmp_path / "m.csv", tmp_path / "a.hw", encoder=own())
    assert done.feature_names() == ["Mean/image", "Mean/text"]
    marker = tmp_path / "ran"
    with Path(tmp_path / "own.py").open("a") as file:
        file.write(f"\nopen({str(marker)!r}, 'w').close()\n")
    with pytest.raises(EncoderError, match="If you trust it, pass --trust-remote-code"):
        similar(done, features="Mean/text", text="other words", device="cpu")
    assert not marker.exists()
    own()
    hits = similar(done, features="Mean/text", text="other words", device="cpu", trust_remote_code=True, k=2)
    assert len(hits) == 2
    spec = done.features("Mean/text").spec
    assert load_again(spec, device="cpu", trust_remote_code=True).spec("text", "float16") == spec
