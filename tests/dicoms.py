"""Make DICOM files of any kind, so that a test states what they hold."""

import io

import numpy as np

from headwater.sources.dicom.header import transfer_syntax_of

SYNTAXES = {
    "explicit": "1.2.840.10008.1.2.1",
    "implicit": "1.2.840.10008.1.2",
    "big endian": "1.2.840.10008.1.2.2",
    "deflated": "1.2.840.10008.1.2.1.99",
    "RLE": "1.2.840.10008.1.2.5",
    "JPEG": "1.2.840.10008.1.2.4.50",
    "JPEG extended": "1.2.840.10008.1.2.4.51",
    "JPEG lossless": "1.2.840.10008.1.2.4.57",
    "JPEG lossless SV1": "1.2.840.10008.1.2.4.70",
    "JPEG-LS": "1.2.840.10008.1.2.4.80",
    "JPEG-LS near": "1.2.840.10008.1.2.4.81",
    "JPEG 2000": "1.2.840.10008.1.2.4.90",
    "JPEG 2000 lossy": "1.2.840.10008.1.2.4.91",
    "HTJ2K": "1.2.840.10008.1.2.4.201",
}
LOSSLESS = ("RLE", "JPEG lossless", "JPEG lossless SV1", "JPEG-LS", "JPEG 2000", "HTJ2K")
MAMMOGRAM = "1.2.840.10008.5.1.4.1.1.1.2"  # Digital Mammography X-Ray Image Storage - For Presentation
TOMOSYNTHESIS = "1.2.840.10008.5.1.4.1.1.13.1.3"
SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"


def dataset(pixels=None, *, syntax="explicit", bits=None, kind=MAMMOGRAM, **tags):
    """Return a pydicom data set with pixels of shape ``(rows, columns)`` or ``(rows, columns, 3)``."""
    import pydicom

    uid = SYNTAXES.get(syntax, syntax)
    made = pydicom.Dataset()
    made.file_meta = pydicom.dataset.FileMetaDataset()
    made.file_meta.TransferSyntaxUID = uid
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = kind
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = "1.2.3.4"
    made.Modality, made.PatientID, made.PatientName = "MG", "12345", "Doe^Jane"
    made.StudyInstanceUID, made.SeriesInstanceUID = "1.2.3", "1.2.3.1"
    if pixels is not None:
        pixels = np.asarray(pixels)
        colour = pixels.ndim == 3
        made.Rows, made.Columns = pixels.shape[:2]
        made.SamplesPerPixel = 3 if colour else 1
        made.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
        if colour:
            made.PlanarConfiguration = 0
        width = 8 * pixels.dtype.itemsize
        made.BitsAllocated, made.BitsStored = width, bits or width
        made.HighBit = made.BitsStored - 1
        made.PixelRepresentation = int(pixels.dtype.kind == "i")
        order = ">" if syntax == "big endian" else "<"
        made.PixelData = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
        made["PixelData"].VR = "OB" if width == 8 and syntax != "implicit" else "OW"
        if syntax == "RLE":
            made.file_meta.TransferSyntaxUID = SYNTAXES["explicit"]
            made.compress(uid, encoding_plugin="pydicom", generate_instance_uid=False)
        elif uid in COMPRESSED:
            made.PixelData = pydicom.encaps.encapsulate([encoded(pixels, syntax, made.BitsStored)])
            made["PixelData"].VR = "OB"
    for name, value in tags.items():
        setattr(made, name, value)
    return made


def encoded(pixels, syntax, bits):
    """Return pixels as a compressed frame."""
    import imagecodecs

    unsigned = pixels.view(f"u{pixels.dtype.itemsize}")
    if syntax in ("JPEG lossless", "JPEG lossless SV1"):
        predictor = 6 if syntax == "JPEG lossless" else 1
        return imagecodecs.jpeg8_encode(unsigned, lossless=True, predictor=predictor, bitspersample=bits)
    if syntax == "JPEG":
        return imagecodecs.jpeg8_encode(unsigned, 90)
    if syntax == "JPEG extended":
        return imagecodecs.jpeg8_encode(unsigned, 95, bitspersample=bits)
    if syntax in ("JPEG-LS", "JPEG-LS near"):
        return imagecodecs.jpegls_encode(unsigned, level=0 if syntax == "JPEG-LS" else 2)
    if syntax == "HTJ2K":
        return imagecodecs.htj2k_encode(pixels, reversible=True)
    return imagecodecs.jpeg2k_encode(
        pixels, codecformat="J2K", reversible=True, level=0, resolutions=4, bitspersample=bits, mct=pixels.ndim == 3
    )


COMPRESSED = {uid for name, uid in SYNTAXES.items() if name in LOSSLESS or name.startswith("JPEG")}


def dicom(pixels=None, **options):
    """Return the bytes of a DICOM file; see `dataset`."""
    return as_bytes(dataset(pixels, **options))


def as_bytes(made):
    """Return a data set as the bytes of a file."""
    out = io.BytesIO()
    asked = made.file_meta.TransferSyntaxUID
    if asked in SYNTAXES.values():
        made.save_as(out, enforce_file_format=True)
        return out.getvalue()
    made.file_meta.TransferSyntaxUID = SYNTAXES["explicit"]  # pydicom writes none that it does not know
    made.save_as(out, enforce_file_format=True)
    uid = asked.encode() + b"\0" * (len(asked) % 2)
    meta = b"\x02\x00\x10\x00UI" + len(uid).to_bytes(2, "little") + uid
    return out.getvalue()[:132] + meta + out.getvalue()[transfer_syntax_of(out.getvalue())[1] :]


def item(**tags):
    """Return an item of a sequence."""
    import pydicom

    made = pydicom.Dataset()
    for name, value in tags.items():
        setattr(made, name, value)
    return made


def look_up_table(first, entries, bits):
    """Return the sequence of a look-up table whose first entry is for the value ``first``."""
    made = item()
    made.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries), first, bits])
    made.add_new("LUTData", "OW", np.asarray(entries, "<u2").tobytes())
    return [made]
