"""Known data sets as tables: one file per set, each met as it was published, with what goes wrong in it.

A reader is a function of the files below a folder and of options, and returns a `Known`. It knows its files by their
names, so the folder may be that of the archive, one above it, or one inside it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from shlex import quote

import polars as pl

from headwater._alike import alike_line
from headwater._words import counted
from headwater.errors import InputError, ManifestError, nearest
from headwater.sources._listing import Files
from headwater.sources.known._found import Asked, Count, Known

__all__ = ["KINDS", "Asked", "Count", "Files", "Kind", "Known", "read_known", "seems_to_be"]


@dataclass(frozen=True)
class Kind:
    """A data set that can be read.

    Attributes
    ----------
    reader
        ``module:function``, called with `Files` and `Asked`.
    title
        The name of the set in messages.
    sign
        What the paths of its files look like, as a regular expression without look-around; empty for no sign.
    looked_for
        The same in words, for messages.
    takes
        Options of `Asked` that the reader uses.
    """

    reader: str
    title: str
    sign: str
    looked_for: str
    takes: tuple[str, ...] = ()


_PACKED = r"(?i)\.(zip|tar|tgz|tar\.(gz|xz|bz2)|7z|rar|part|crdownload)$"
_HERE = "headwater.sources.known"
KINDS: dict[str, Kind] = {
    "breakhis": Kind(
        f"{_HERE}.breakhis:read",
        "BreakHis",
        r"(^|/)SOB_[BM]_(A|F|PT|TA|DC|LC|MC|PC)-\d\d-\d+[A-Z]*-(40|100|200|400)-\d{3}\.(?i:png)$",
        "files such as SOB_B_A-14-22549AB-40-001.png",
    ),
    "bach": Kind(
        f"{_HERE}.bach:read",
        "BACH",
        r"/(Normal|Benign|InSitu|Invasive)/(n|b|is|iv)\d{3}\.(?i:tiff?)$",
        "files such as Photos/Benign/b001.tif",
        ("groups_file",),
    ),
    "quilt": Kind(
        f"{_HERE}.quilt:read",
        "Quilt-1M",
        r"/quilt_1M_lookup\.csv$|_image_[0-9a-f]{8}-[0-9a-f-]+\.(?i:jpg)$",
        "quilt_1M_lookup.csv",
    ),
    "mias": Kind(
        f"{_HERE}.mias:read",
        "MIAS",
        r"(?i)/mdb\d{3}([a-z]{2})?\.(pgm|png)$",
        "files such as mdb001.pgm",
    ),
    "vindr-mammo": Kind(
        f"{_HERE}.vindr_mammo:read",
        "VinDr-Mammo",
        r"/(breast-level|finding)_annotations\.csv$|/[0-9a-f]{32}/[0-9a-f]{32}\.(?i:dicom)$",
        "breast-level_annotations.csv",
    ),
    "rsna-mammo": Kind(
        f"{_HERE}.rsna_mammo:read",
        "RSNA Screening Mammography",
        r"/(train|test)_images/\d+/\d+\.(?i:dcm|png)$",
        "train.csv with the columns site_id, patient_id and image_id",
    ),
    "cbis-ddsm": Kind(
        f"{_HERE}.cbis_ddsm:read",
        "CBIS-DDSM",
        r"/(mass|calc)_case_description_(train|test)_set\.csv$|/(Mass|Calc)-(Training|Test)_P_\d{5}_",
        "mass_case_description_train_set.csv",
        ("part",),
    ),
    "glas": Kind(
        f"{_HERE}.glas:read",
        "GlaS",
        r"/(train|testA|testB)_\d{1,3}(_anno)?\.(?i:bmp)$",
        "files such as train_1.bmp",
    ),
    "lc25000": Kind(
        f"{_HERE}.lc25000:read",
        "LC25000",
        r"/(colonca|colonn|lungaca|lungn|lungscc)\d{1,4}\.(?i:jpeg)$",
        "files such as colonca1.jpeg",
        ("groups_file",),
    ),
    "nct-crc": Kind(
        f"{_HERE}.nct_crc:read",
        "NCT-CRC-HE",
        r"/(ADI|BACK|DEB|LYM|MUC|MUS|NORM|STR|TUM)-(TCGA-)?[A-Z]{8}\.(?i:tif)$",
        "files such as ADI/ADI-AAAMHQMK.tif",
    ),
    "dicom": Kind(f"{_HERE}.dicom:read", "DICOM", "", "DICOM files", ("salt",)),
    "folder": Kind(f"{_HERE}.folder:read", "a folder of images", "", "images"),
}
"""Every data set by the word that names it."""


def read_known(kind: str, folder: str | Path, asked: Asked | None = None) -> Known:
    """Read a data set from the folder that holds it.

    Parameters
    ----------
    kind
        One of `KINDS`.
    folder
        The folder of the unpacked archive, one above it, or one inside it.
    asked
        Options of the reader.

    Returns
    -------
    Known

    Raises
    ------
    InputError
        When there is no such kind, or the reader does not take an option that was given.
    ManifestNotFound
        When there is no such folder.
    ManifestError
        When the folder does not hold this data set; the message says what was looked for, and which other set it
        seems to be.
    """
    asked = asked or Asked()
    if kind not in KINDS:
        raise InputError(f"there is no data set {kind!r}.{nearest(kind, KINDS)} There are: {', '.join(KINDS)}.")
    this = KINDS[kind]
    if asked.groups_file is not None and "groups_file" not in this.takes:
        able = [name for name, one in KINDS.items() if "groups_file" in one.takes]
        raise InputError(f"--groups-file goes with {' and '.join(able)}, not with {kind}. Leave it out.")
    if asked.part != "full" and "part" not in this.takes:
        raise InputError(f"--part goes with cbis-ddsm, not with {kind}. Leave it out.")
    if asked.salt is not None and "salt" not in this.takes:
        raise InputError(f"--salt goes with dicom, not with {kind}. Leave it out.")
    files = Files.below(folder)
    module, _, name = this.reader.partition(":")
    try:
        found: Known = getattr(import_module(module), name)(files, asked)
    except ManifestError as error:  # a table of this name is in another set
        if this.sign and not files.full.str.contains(this.sign).any() and seems_to_be(files, but=kind):
            raise ManifestError(_not_there(kind, folder, files)) from error
        raise
    if found.table.is_empty():
        raise ManifestError(_not_there(kind, folder, files))
    twice = found.table.filter(pl.col("id").is_duplicated())["id"]
    if len(twice):
        raise ManifestError(f"{folder}: {twice[0]!r} is listed in several rows. Get the table as it was published.")
    said = [*found.warnings, *spellings(found), *(_sides(found) if kind != "dicom" else []), *files.odd_line()]
    return replace(found, warnings=said)


def spellings(found: Known) -> list[str]:
    """Warn of groups that occur in several spellings, such as ``P01`` and ``p1``."""
    return [line for name in found.groups for line in alike_line(found.table[name], name)]


def _sides(found: Known) -> list[str]:
    """Warn of mammograms whose side is not known."""
    n = found.table["laterality"].null_count() if "laterality" in found.table.columns else 0
    return [f"{counted(n, 'image')} whose side is neither left nor right: laterality and breast are empty"] if n else []


def seems_to_be(files: Files, but: str = "") -> str | None:
    """Return the data set whose files these seem to be; None if they look like none."""
    n_of = {
        name: int(files.full.str.contains(kind.sign).sum()) for name, kind in KINDS.items() if kind.sign and name != but
    }
    best = max(n_of, key=lambda name: n_of[name], default=None)
    return best if best is not None and n_of[best] else None


def _not_there(kind: str, folder: str | Path, files: Files) -> str:
    this = KINDS[kind]
    other = seems_to_be(files, but=kind)
    if other is not None:
        run = f"headwater manifest {other} {quote(str(folder))}"
        return f"{folder} looks like {KINDS[other].title}, not {this.title}. Run: {run}"
    packed = files.paths.filter(files.paths.str.contains(_PACKED))
    if len(packed):
        return (
            f"{folder} is not {this.title} yet: unpack {packed[0]} first, then give the folder of the unpacked files."
        )
    some = files.names.head(3).to_list()
    left_out = "".join(f"{line}." for line in files.odd_line()) or "The folder is empty."
    there = f"Such files are there: {', '.join(map(repr, some))}." if some else left_out
    return f"{folder} is not {this.title}: there are no {this.looked_for}. {there} Give the folder of the archive."
