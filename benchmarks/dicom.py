"""How fast a DICOM mammogram becomes RGB: `read_image` against pydicom with the plug-ins that people install.

A synthetic mammogram of 3,518 x 2,800 pixels and 12 bits, with a window, is written uncompressed and compressed. Ours
is `headwater.sources.read_image` of the file's bytes. The other side is pydicom: `dcmread`, one named plug-in
(pylibjpeg-openjpeg for JPEG 2000, pyjpegls for JPEG-LS, gdcm for lossless JPEG), `apply_modality_lut`, `apply_voi_lut`,
the same scale to 8 bits, and three channels. Both use one thread, take turns in one process, and show the same grey
levels (at most one apart, where halves round). The last row compares half the resolution of JPEG 2000, which the others
do not offer, with their full one.

Run: pip install pylibjpeg pylibjpeg-openjpeg pyjpegls python-gdcm && python benchmarks/dicom.py [--repeats N]
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pydicom
from _timing import machine, report, take_turns
from numpy.typing import NDArray
from PIL import Image

from headwater.sources import read_image
from headwater.sources.dicom.table import read_dicom_folder
from headwater.sources.reading import Reading

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the files that tests make

from tests.dicoms import dicom

ROWS, COLUMNS = 3518, 2800
CASES = {
    "explicit": ("", 0.95),
    "JPEG lossless SV1": ("gdcm", 3.0),
    "JPEG-LS": ("pyjpegls", 1.5),
    "JPEG 2000": ("pylibjpeg", 1.0),
}
HALF = 4.0
N_HEADERS = 2000


def mammogram() -> NDArray[np.uint16]:
    """Return a breast with texture and noise beside dark air, 12 bits."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:ROWS, :COLUMNS]
    breast = ((y - ROWS / 2) / 1500) ** 2 + (x / 1700) ** 2 < 1
    tissue = 1500 + 700 * np.sin(x / 90) * np.cos(y / 70) + random.normal(0, 60, x.shape)
    return np.where(breast, tissue, 20 + random.normal(0, 6, x.shape)).clip(0, 4095).astype(np.uint16)


def by_pydicom(data: bytes, plugin: str) -> Image.Image:
    """Return the picture as pydicom's functions make it."""
    header = pydicom.dcmread(io.BytesIO(data))
    decoder = pydicom.pixels.get_decoder(header.file_meta.TransferSyntaxUID)
    stored = decoder.as_array(header, index=0, decoding_plugin=plugin)[0]
    shown = pydicom.pixels.apply_voi_lut(pydicom.pixels.apply_modality_lut(stored, header), header)
    grey = np.rint(shown * (255 / (2**header.BitsStored - 1))).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")


def require_same(ours: Image.Image, theirs: Image.Image) -> None:
    """Raise unless two pictures are at most one level apart."""
    apart = np.abs(np.asarray(ours).astype(int) - np.asarray(theirs)).max()
    if apart > 1:
        raise SystemExit(f"the pictures are {apart} levels apart")


def headers(data: bytes) -> float:
    """Return how many headers of files are read into a table in a second."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(N_HEADERS):
            (Path(folder) / f"{number:05}").write_bytes(data)
        start = time.perf_counter()
        read_dicom_folder(folder, salt=b"0" * 32)
        return N_HEADERS / (time.perf_counter() - start)


def main() -> None:
    """Measure and print a line for each file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    warnings.simplefilter("ignore")
    print(machine())
    pixels, window = mammogram(), {"WindowCenter": 1500, "WindowWidth": 2500}
    for syntax, (plugin, aim) in CASES.items():
        data = dicom(pixels, syntax=syntax, bits=12, **window)
        ours, theirs = partial(read_image, data), partial(by_pydicom, data, plugin)
        require_same(ours(), theirs())
        name = "uncompressed" if syntax == "explicit" else syntax
        against = f"pydicom{f' with {plugin}' if plugin else ''}"
        report(f"{name}, {len(data) / 1e6:.1f} MB, against {against}", *take_turns(ours, theirs, repeats), aim)
        if syntax == "JPEG 2000":
            half = Reading(decode="half")
            assert read_image(data, reading=half).size == (COLUMNS // 2, ROWS // 2)
            both = take_turns(partial(read_image, data, reading=half), theirs, repeats)
            report("JPEG 2000 at half the sides, against the same in full", *both, HALF)
    small = dicom(pixels[:64, :64], bits=12, **window)
    print(f"table of {N_HEADERS:,} headers: {headers(small):,.0f} a second", flush=True)


if __name__ == "__main__":
    main()
