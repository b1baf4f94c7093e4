"""Read a folder of DICOM files into a table: one row per image, with values that identify nobody."""

from __future__ import annotations

import hmac
import io
import os
import re
import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, Literal

import polars as pl

from headwater._alike import spelled_alike
from headwater._extras import need
from headwater._reading import open_regular, read_regular
from headwater._words import counted
from headwater.errors import HeadwaterError, ImageError, InputError, ManifestError
from headwater.sources._listing import Files
from headwater.sources.dicom.header import (
    DEFLATED,
    CountedBytes,
    first_of,
    inflated,
    is_dicom,
    is_encrypted,
    kind_of,
    number_of,
    one_line,
    one_more,
    pydicom_quiet,
    refusal_of,
    syntax_of,
    transfer_syntax_of,
    value_of,
)

SALT_BYTES = 32
HASH_LETTERS = 20
WORKERS = 4  # threads: most of the time the disk is waited for
AT_ONCE = 1024  # files that wait for a thread
MOST_HEADER = 64 << 20  # bytes of a header, and of one value in it
START = 4096  # bytes that show what a file is
SHOWN = 5
WITHOUT_STATEMENT = ("US", "SC", "OT")  # modalities that often have text in the image, whatever the header leaves out

LEAST_OF_NAME, LEAST_OF_ID = 3, 4  # letters of a part of a name, or of a PatientID, that are looked for in paths

_CODE = re.compile(r"[A-Z0-9_ -]{1,24}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 .,;:/()+_-]{0,63}")
_AGE = re.compile(r"(\d{3})([DWMY])")
_YEARS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}
_SIDES = {"L": "L", "LEFT": "L", "R": "R", "RIGHT": "R", "B": "B", "BOTH": "B", "BILATERAL": "B"}

# Views and their modifiers by code, in SNOMED CT and in the older SNOMED RT (PS3.16, CID 4014 and 4015).
_VIEWS = {
    "399260004": "ML", "R-10224": "ML",
    "399368009": "MLO", "R-10226": "MLO",
    "399352003": "LM", "R-10228": "LM",
    "399099002": "LMO", "R-10230": "LMO",
    "399162004": "CC", "R-10242": "CC",
    "399196006": "FB", "R-10244": "FB",
    "399188001": "SIO", "R-102D0": "SIO",
    "441555000": "ISO", "R-40AAA": "ISO",
    "399192008": "XCCL", "R-1024A": "XCCL",
    "399101009": "XCCM", "R-1024B": "XCCM",
    "127457009": "SPECIMEN", "G-8310": "SPECIMEN",
}  # fmt: skip
_VIEW_MODIFIERS = {
    "399163009": "magnification", "R-102D6": "magnification",
    "399055006": "spot compression", "R-102D7": "spot compression",
    "441752004": "anterior compression", "P2-00161": "anterior compression",
    "399209000": "implant displaced", "R-102D5": "implant displaced",
    "399011000": "axillary tail", "R-102D1": "axillary tail",
    "442580003": "axillary tissue", "R-40AB2": "axillary tissue",
    "399161006": "cleavage", "R-102D2": "cleavage",
    "399110001": "tangential", "R-102C2": "tangential",
    "442581004": "nipple in profile", "R-40AB3": "nipple in profile",
    "442593008": "infra-mammary fold", "R-40ABE": "infra-mammary fold",
    "399226006": "rolled medial", "R-102D4": "rolled medial",
    "399197002": "rolled lateral", "R-102D3": "rolled lateral",
    "414493004": "rolled inferior", "R-102CA": "rolled inferior",
    "415670009": "rolled superior", "R-102C9": "rolled superior",
}  # fmt: skip
_POSITIONS = {
    "CRANIO-CAUDAL": "CC", "CRANIOCAUDAL": "CC", "MEDIO-LATERAL OBLIQUE": "MLO", "MEDIOLATERAL OBLIQUE": "MLO",
    "MEDIOLATERAL": "ML", "MEDIO-LATERAL": "ML", "LATEROMEDIAL": "LM", "LATERO-MEDIAL": "LM",
}  # fmt: skip
"""Words of ViewPosition that older devices write instead of abbreviations."""

COLUMNS: dict[str, Any] = {
    "image": pl.String, "patient": pl.String, "exam": pl.String, "series": pl.String, "breast": pl.String,
    "laterality": pl.String, "view": pl.String, "view_position": pl.String, "view_modifier": pl.String,
    "modality": pl.String, "manufacturer": pl.String, "model": pl.String, "age": pl.Float64, "sex": pl.String,
    "presentation_intent": pl.String, "photometric": pl.String, "bits_stored": pl.Int64, "rows": pl.Int64,
    "columns": pl.Int64, "pixel_spacing": pl.Float64, "estimated_magnification": pl.Float64,
    "body_part_thickness": pl.Float64, "compression_force": pl.Float64, "kvp": pl.Float64, "exposure": pl.Float64,
    "implant": pl.String, "burned_in_annotation": pl.String, "transfer_syntax": pl.String, "kind": pl.String,
}  # fmt: skip
"""The columns of the table, with their types. Ages are in years, spacings in mm, forces in N, exposures in mAs."""

_TAGS = (
    "SOPClassUID", "Modality", "Manufacturer", "ManufacturerModelName", "ViewPosition", "ViewCodeSequence",
    "ImageLaterality", "Laterality", "PatientAge", "PatientSex", "ImagerPixelSpacing", "PixelSpacing",
    "BodyPartThickness", "CompressionForce", "KVP", "Exposure", "PresentationIntentType", "PhotometricInterpretation",
    "BreastImplantPresent", "StudyInstanceUID", "SeriesInstanceUID", "PatientID", "Rows", "Columns", "BitsStored",
    "NumberOfFrames", "BurnedInAnnotation", "EstimatedRadiographicMagnificationFactor", "PatientName",
)  # fmt: skip
"""What is read. PatientName is only looked for in the file's path, to warn of it."""


@dataclass(frozen=True)
class DicomTable:
    """What a folder of DICOM files holds.

    Attributes
    ----------
    table
        One row per image, with the columns of `COLUMNS`, sorted by ``image``.
    skipped
        Files that are DICOM but no image that can be read, relative to the folder, with the reason.
    n_other
        Number of files that are not DICOM.
    warnings
        Sentences about burned-in text and missing patients.
    """

    table: pl.DataFrame
    skipped: dict[str, str]
    n_other: int
    warnings: tuple[str, ...] = field(default=())

    def lines(self) -> list[str]:
        """Return what was found, in a few lines."""
        patients = self.table["patient"].drop_nulls().n_unique()
        lines = [f"{counted(self.table.height, 'image')} of {counted(patients, 'patient')}"]
        if self.n_other:
            lines.append(f"{counted(self.n_other, 'file')} not DICOM")
        reasons = self.reasons()
        lines += [line for line, _ in reasons[:SHOWN]]
        if more := sum(n for _, n in reasons[SHOWN:]):
            lines.append(f"{counted(more, 'file')} left out for other reasons")
        return [*lines, *self.warnings]

    def reasons(self) -> list[tuple[str, int]]:
        """Return a sentence for each reason to leave out files, with their number, the most frequent first."""
        first: dict[str, str] = {}
        for name, reason in self.skipped.items():
            first.setdefault(reason, name)
        return [
            (f"{counted(n, 'file')} left out, such as {first[reason]!r}: {reason}", n)
            for reason, n in Counter(self.skipped.values()).most_common()
        ]


def read_dicom_folder(
    folder: str | os.PathLike[str],
    *,
    salt: bytes,
    workers: int = WORKERS,
    say: Callable[[int, int], None] | None = None,
) -> DicomTable:
    """Read the headers of all DICOM files below a folder.

    Only the tags of `COLUMNS` leave a header: no name, date, free text or private tag. Patient, exam and series are
    HMAC-SHA256 digests of PatientID, StudyInstanceUID and SeriesInstanceUID, so they agree between tables made with one
    salt and cannot be computed without it. Hidden files are left out.

    Parameters
    ----------
    folder
        Is searched with its subfolders; files need no suffix.
    salt
        Secret bytes; see `read_or_make_salt`.
    workers
        Number of threads.
    say
        Called now and then with the number of files read and that of all files.

    Returns
    -------
    DicomTable
        Files that cannot be used are named in it; none ends the run.

    Raises
    ------
    ManifestNotFound, ManifestError
        When there is no such folder, or it holds no DICOM image.
    InputError
        When the salt is shorter than 16 bytes.
    MissingExtra
        When pydicom is not installed.
    """
    return require_images(folder, read_dicom_files(Files.below(folder), salt=salt, workers=workers, say=say))


def read_dicom_files(
    files: Files, *, salt: bytes, workers: int = WORKERS, say: Callable[[int, int], None] | None = None
) -> DicomTable:
    """Read the headers of the DICOM files among those of a folder, as `read_dicom_folder` does."""
    if len(salt) < 16:
        raise InputError("a salt must have at least 16 bytes. Pass the bytes of a file that read_or_make_salt made.")
    pydicom_quiet()
    root, names = files.root, files.paths.to_list()
    rows: list[dict[str, Any]] = []
    id_of: dict[str, str] = {}  # PatientIDs by their digests: to compare spellings, and for nothing else
    n_named = 0
    skipped: dict[str, str] = {}
    n_other = 0
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for start in range(0, len(names), AT_ONCE):
            some = names[start : start + AT_ONCE]
            for name, found in zip(some, pool.map(lambda name: _row_of(root, name, salt), some), strict=True):
                if found is None:
                    n_other += 1
                elif isinstance(found, str):
                    skipped[name] = found
                else:
                    rows.append(found.values)
                    n_named += found.is_named
                    if found.patient is not None:
                        id_of[found.values["patient"]] = found.patient
            if say is not None:
                say(start + len(some), len(names))
    table = pl.DataFrame(rows, schema=COLUMNS)
    said = (*_warnings(table), *_alike(id_of), *_named_line(n_named))
    return DicomTable(table, skipped, n_other, said)


def require_images(folder: str | os.PathLike[str], found: DicomTable) -> DicomTable:
    """Return a table that holds images.

    Raises
    ------
    ManifestError
        When it holds none; the message says what was there.
    """
    if found.table.is_empty():
        why = "; ".join(found.lines()[1:])
        raise ManifestError(f"{folder}: there is no DICOM image that can be read{f' ({why})' if why else ''}.")
    return found


def read_or_make_salt(path: str | os.PathLike[str]) -> bytes:
    """Return the salt in a file; make the file, readable by its owner alone, if there is none.

    Raises
    ------
    InputError
        When the file cannot be read or written, others may read it, or it is too short.
    """
    place = Path(path)
    try:
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
        handle = os.open(place, flags, 0o600)
    except FileExistsError:
        pass
    except OSError as error:
        raise InputError(f"{place}: the salt cannot be written ({error.strerror}). Give another file.") from error
    else:
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(SALT_BYTES) + "\n")
    try:
        mode = place.stat().st_mode
        salt = read_regular(place, most=1 << 16).strip()
    except OSError as error:
        raise InputError(f"{place}: the salt cannot be read ({error.strerror or error}). Give another file.") from error
    if mode & 0o077:
        raise InputError(
            f"{place}: others may read this salt, and so tell who the patients are. Run: chmod 600 {place}"
        )
    if len(salt) < 16:
        raise InputError(f"{place}: a salt must have at least 16 bytes. Give another file, or one that does not exist.")
    return salt


def hashed(value: str, salt: bytes) -> str:
    """Return a keyed digest of an identifier: the first letters of HMAC-SHA256, in hexadecimal.

    Examples
    --------
    >>> hashed("1234567", b"0123456789abcdef")
    'e7c890fcce44cfaefce8'
    """
    return hmac.new(salt, value.encode(), sha256).hexdigest()[:HASH_LETTERS]


@dataclass(frozen=True)
class _Row:
    """A row, and what must not leave the reader.

    Attributes
    ----------
    values
        The row.
    patient
        The PatientID; None if the file has none.
    is_named
        Whether the file's path holds the PatientID or a part of the patient's name.
    """

    values: dict[str, Any]
    patient: str | None
    is_named: bool


def _row_of(root: Path, name: str, salt: bytes) -> _Row | str | None:
    """Return the row of a file; why it has none, if it is DICOM; None if it is not."""
    try:
        with open_regular(root / name) as file:
            start = file.read(START)
            if is_encrypted(start):
                return "encrypted or signed (CMS)"
            if not is_dicom(start):
                return "damaged: no DICOM header" if Path(name).suffix.lower() in (".dcm", ".dicom") else None
            n_bytes = os.fstat(file.fileno()).st_size
            header, has_pixels = _header_of(file, start, n_bytes)
        if why := refusal_of(header, has_pixels=has_pixels):
            return why
        return _Row(_values(header, name, salt), _text(header, "PatientID"), _is_named(header, f"{root.name}/{name}"))
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    except HeadwaterError as error:
        why = str(error)  # a parser's own words may quote a value
        return "damaged DICOM header" if why.startswith("damaged DICOM header (") else why


class _Bounded(io.RawIOBase):
    """A file that is read in a limited number of pieces of at most `MOST_HEADER` bytes: lengths may be lies."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._n_reads = 0

    def read(self, size: int = -1) -> bytes:
        self._n_reads = one_more(self._n_reads)
        if size is None or size < 0 or size > MOST_HEADER:
            raise ImageError("damaged DICOM header: a value is longer than a header")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


def _header_of(file: BinaryIO, start: bytes, n_bytes: int) -> tuple[Any, bool]:
    """Return the header of a file, without its pixels, and whether it has pixels.

    Raises
    ------
    ImageError
        When it cannot be parsed, or the file ends before its pixels do.
    """
    syntax, end = transfer_syntax_of(start)
    source: BinaryIO = file
    try:
        if syntax == DEFLATED:
            file.seek(end)
            body = inflated(file.read(MOST_HEADER), 4 * MOST_HEADER)
            source, n_bytes = CountedBytes(body), len(body)
            header = need("pydicom.filereader", "dicom").read_dataset(
                source,
                is_implicit_VR=False,
                is_little_endian=True,
                stop_when=lambda tag, *_: tag == 0x7FE00010,
                specific_tags=_tags(),
            )
            header.file_meta = _meta_of(DEFLATED)
        else:
            file.seek(0)
            header = pydicom_quiet().dcmread(
                _Bounded(file), stop_before_pixels=True, specific_tags=list(_TAGS), force=True
            )
            source = file
    except RecursionError:
        raise ImageError("damaged DICOM header: its sequences are nested without end") from None
    except (HeadwaterError, OSError, MemoryError):
        raise
    except Exception as error:  # on a damaged file, pydicom raises nearly anything
        raise ImageError(f"damaged DICOM header ({one_line(error)})") from error
    return header, _has_pixels(source, n_bytes)


def _has_pixels(source: BinaryIO, n_bytes: int) -> bool:
    """Whether pixels follow where reading stopped; raise if the file ends before they do."""
    words = source.read(12)
    if len(words) < 8:
        return False
    order: Literal["little", "big"] = "big" if words.startswith(b"\x7f\xe0") else "little"
    tag = int.from_bytes(words[:2], order), int.from_bytes(words[2:4], order)
    if tag != (0x7FE0, 0x0010):
        return tag in ((0x7FE0, 0x0008), (0x7FE0, 0x0009))
    explicit = words[4:6] in (b"OB", b"OW", b"UN")  # whatever the transfer syntax says
    length = int.from_bytes(words[8:12] if explicit else words[4:8], order)
    begin = source.tell() - len(words) + (12 if explicit else 8)
    if length != 0xFFFFFFFF and begin + length > n_bytes:
        raise ImageError(f"truncated DICOM file: {n_bytes - begin:,} of {length:,} bytes of pixels")
    return True


def _tags() -> list[Any]:
    tag = need("pydicom.tag", "dicom").Tag
    return [tag(name) for name in _TAGS]


def _meta_of(syntax: str) -> Any:
    meta = pydicom_quiet().dataset.FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    return meta


def _values(header: Any, name: str, salt: bytes) -> dict[str, Any]:
    """Return the values of a row; a value of another form than DICOM gives it is left out."""
    side = _SIDES.get(_coded(header, "ImageLaterality") or _coded(header, "Laterality") or "")
    patient = _hash(header, "PatientID", salt)
    position = _coded(header, "ViewPosition")
    modifiers = _items(_item(header, "ViewCodeSequence"), "ViewModifierCodeSequence")
    found = {_VIEW_MODIFIERS.get(_code_of(item), "other") for item in modifiers}
    return {
        "image": name,
        "patient": patient,
        "exam": _hash(header, "StudyInstanceUID", salt),
        "series": _hash(header, "SeriesInstanceUID", salt),
        "breast": f"{patient}_{side}"
        if patient and side in ("L", "R") and _coded(header, "Modality") == "MG"
        else None,
        "laterality": side,
        "view": _view_of(header, position),
        "view_position": position,
        "view_modifier": ", ".join(sorted(found)) or None,
        "modality": _coded(header, "Modality"),
        "manufacturer": _named(header, "Manufacturer"),
        "model": _named(header, "ManufacturerModelName"),
        "age": _age(header),
        "sex": _one_of(header, "PatientSex", ("F", "M", "O")),
        "presentation_intent": _one_of(header, "PresentationIntentType", ("FOR PRESENTATION", "FOR PROCESSING")),
        "photometric": _coded(header, "PhotometricInterpretation"),
        "bits_stored": _whole(header, "BitsStored"),
        "rows": _whole(header, "Rows"),
        "columns": _whole(header, "Columns"),
        "pixel_spacing": _number(header, "PixelSpacing") or _number(header, "ImagerPixelSpacing"),
        "estimated_magnification": _number(header, "EstimatedRadiographicMagnificationFactor"),
        "body_part_thickness": _number(header, "BodyPartThickness"),
        "compression_force": _number(header, "CompressionForce"),
        "kvp": _number(header, "KVP"),
        "exposure": _number(header, "Exposure"),
        "implant": _one_of(header, "BreastImplantPresent", ("YES", "NO")),
        "burned_in_annotation": _one_of(header, "BurnedInAnnotation", ("YES", "NO")),
        "transfer_syntax": syntax_of(header),
        "kind": kind_of(header),
    }


def _text(header: Any, keyword: str) -> str | None:
    try:
        value = first_of(value_of(header, keyword))
    except ImageError:
        return None
    return None if value is None else str(value).strip() or None


def _hash(header: Any, keyword: str, salt: bytes) -> str | None:
    value = _text(header, keyword)
    return None if value is None else hashed(f"{keyword}:{value}", salt)


def _coded(header: Any, keyword: str) -> str | None:
    """Return a code string (VR CS), as the standard allows it to be written: other text may be anything."""
    value = (_text(header, keyword) or "").upper()
    return value if _CODE.fullmatch(value) else None


def _one_of(header: Any, keyword: str, allowed: Sequence[str]) -> str | None:
    value = _coded(header, keyword)
    return value if value in allowed else None


def _named(header: Any, keyword: str) -> str | None:
    """Return the name of a maker or model if it is made of plain letters and cannot be a formula."""
    value = _text(header, keyword) or ""
    return value if _NAME.fullmatch(value) else None


def _whole(header: Any, keyword: str) -> int | None:
    number = _number(header, keyword)
    return None if number is None or number != int(number) else int(number)


def _number(header: Any, keyword: str) -> float | None:
    try:
        return number_of(header, keyword)
    except ImageError:
        return None


def _age(header: Any) -> float | None:
    """Return PatientAge in years; an age of more than 89 years, which may identify a person, is 90."""
    found = _AGE.fullmatch((_text(header, "PatientAge") or "").upper())
    return None if found is None else min(90.0, round(int(found[1]) * _YEARS[found[2]], 2))


def _items(header: Any, keyword: str) -> list[Any]:
    if header is None:
        return []
    try:
        return list(value_of(header, keyword) or [])[:20]
    except (ImageError, TypeError):
        return []


def _item(header: Any, keyword: str) -> Any:
    return next(iter(_items(header, keyword)), None)


def _code_of(item: Any) -> str:
    return _text(item, "CodeValue") or ""


def _view_of(header: Any, position: str | None) -> str | None:
    """Return the view of a mammogram or radiograph: by its code, else by ViewPosition."""
    item = _item(header, "ViewCodeSequence")
    coded = None if item is None else _VIEWS.get(_code_of(item))
    return coded or (None if position is None else _POSITIONS.get(position, position))


def _is_named(header: Any, path: str) -> bool:
    """Whether a path holds the PatientID, or a part of the patient's name, as a word of its own."""
    try:
        name = str(value_of(header, "PatientName") or "")
    except ImageError:
        name = ""
    words = [word for word in re.split(r"[\W_]+", name) if len(word) >= LEAST_OF_NAME]
    patient = _text(header, "PatientID") or ""
    words += [patient] if len(patient) >= LEAST_OF_ID else []
    found = "|".join(re.escape(word.casefold()) for word in words)
    return bool(found) and re.search(rf"(?<![^\W_])(?:{found})(?![^\W_])", path.casefold()) is not None


def _alike(id_of: dict[str, str]) -> Iterator[str]:
    """Warn of PatientIDs that are very likely one patient in several spellings, whose digests do not show it."""
    digests = {patient: digest for digest, patient in id_of.items()}
    if found := spelled_alike(pl.Series(list(digests), dtype=pl.String)):
        shown = "; ".join(" and ".join(digests[patient] for patient in some[:4]) for some in found[:SHOWN])
        more = f" and {len(found) - SHOWN:,} more" if len(found) > SHOWN else ""
        yield (
            f"patient: PatientIDs differ only in case, blanks or spelling, of {shown}{more}. If they are the same, "
            "write one digest in place of the others"
        )


def _named_line(n: int) -> Iterator[str]:
    if n:
        yield (
            f"the paths of {counted(n, 'image')} hold the PatientID or the name of the patient, and stand in the "
            "columns id and image. Rename the files before you pass the table on"
        )


def _warnings(table: pl.DataFrame) -> Iterator[str]:
    said = pl.col("burned_in_annotation")
    if shown := table.filter(said == "YES").height:
        yield (
            f"{counted(shown, 'image')} may show who the patient is: Burned In Annotation is YES. Leave them out, for "
            "example with --where \"COALESCE(burned_in_annotation, '') <> 'YES'\", or crop the text away"
        )
    captured = pl.col("kind").str.contains("Secondary Capture").fill_null(False)
    often = pl.col("modality").is_in(WITHOUT_STATEMENT).fill_null(False)
    silent = table.filter(said.is_null() & (often | captured)).with_columns(
        what=pl.when(captured).then(pl.lit("secondary captures")).otherwise(pl.col("modality"))
    )
    if silent.height:
        kinds = ", ".join(sorted(silent["what"].unique().to_list()))
        n = counted(silent.height, "image")
        yield f"{n} without Burned In Annotation ({kinds}), which may show names: look at some"
    if without := table["patient"].null_count():
        yield f"{counted(without, 'image')} without a PatientID: a split cannot keep these patients whole"
