"""Read manifests: tables of samples, with columns for their ids, images and texts."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import polars as pl

from headwater._about import KEY, About, NotAbout, read_about
from headwater._reading import TABLE, NotParquet, parse_parquet, read_regular
from headwater.errors import ManifestError, ManifestNotFound, nearest
from headwater.sources._folder import read_folder
from headwater.sources._listing import require_utf8_names
from headwater.sources._places import why_not_found
from headwater.sources._records import (
    Malformed,
    has_decimals,
    not_utf8,
    numbers_as_written,
    read_text,
    with_newlines,
    wrong_json_line,
)
from headwater.sources._types import is_identifier, typed, with_plain_types, with_text
from headwater.sources.slides.columns import IMAGE, Geometry, geometry_of, has_tiles, with_places

__all__ = ["Manifest", "read_manifest"]

# Column names for each role, best first; names in one tuple rank equally.
_NAMES: dict[str, tuple[tuple[str, ...], ...]] = {
    "id": (("id",), ("sample_id",), ("image_id", "uid", "uuid")),
    "image": (
        ("image",),
        ("image_path",),
        ("path", "file", "filename", "file_name", "file_path", "filepath", "image_file", "img", "img_path"),
    ),
    "text": (
        ("text",),
        ("caption", "report", "note", "notes", "description", "sentence", "findings", "impression"),
    ),
}
_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_WORDS_FOR = {",": "commas", ";": "semicolons", "\t": "tabs"}
_JSON_LINES = (".jsonl", ".ndjson")
MANIFEST_SUFFIXES = (*_SEPARATORS, ".parquet", *_JSON_LINES)


@dataclass(frozen=True, slots=True, eq=False)
class Manifest:
    """A table of samples and the roles of its columns; `read_manifest` makes one.

    Parameters
    ----------
    table
        One row per sample. The columns of the three roles are strings; the ids are unique.
    id
        Name of the column with the sample ids.
    image
        Name of the column with the image paths, or None.
    text
        Name of the column with the texts, or None.
    root
        The folder that relative image paths start from.
    about
        What is known of the columns: which are outcomes, and which keep rows together.
    """

    table: pl.DataFrame
    id: str
    image: str | None
    text: str | None
    root: Path
    about: About = field(default_factory=About)

    @property
    def n_samples(self) -> int:
        """Number of rows."""
        return self.table.height

    @property
    def ids(self) -> list[str]:
        """The sample ids, in the table's order."""
        return self.require(self.id).to_list()

    def image_paths(self) -> list[Path | None]:
        """Return where each sample's image file should be; None for a sample without an image.

        Relative paths start from `root`. The files need not exist.
        """
        return [None if place is None else Path(place) for place in self.image_places()]

    def image_places(self) -> pl.Series:
        """Return `image_paths` as a column of strings, which is faster than a million path objects."""
        if self.image is None:
            return pl.Series("place", [None] * self.n_samples, dtype=pl.String)
        values = self._filled(self.image).alias("place")
        root = str(self.root).rstrip("/")
        places = values.to_frame().select(
            pl.when(pl.col("place").str.starts_with("/")).then("place").otherwise(pl.lit(f"{root}/") + pl.col("place"))
        )["place"]
        odd = places.str.contains(r"/\.?(/|$)").fill_null(False)
        if not odd.any():
            return places
        return pl.Series("place", [None if place is None else str(Path(place)) for place in places], dtype=pl.String)

    def tile_geometry(self) -> Geometry | None:
        """Return what all tiles of slides among the images have in common; None if there are none.

        Raises
        ------
        ManifestError
            When tiles of several geometries, or tiles and other images, are mixed.
        """
        if self.image is None:
            return None
        mpp = self.table["mpp"] if "mpp" in self.table.columns else None
        return geometry_of(self._filled(self.image), mpp, self.root)

    def texts(self) -> list[str | None]:
        """Return each sample's text, unchanged; None for a sample whose text is missing or blank."""
        if self.text is None:
            return [None] * self.n_samples
        return self._filled(self.text).to_list()

    def require(self, column: str) -> pl.Series:
        """Return a column of the table.

        Raises
        ------
        ManifestError
            When there is no such column; the message lists the existing ones.
        """
        if column not in self.table.columns:
            raise ManifestError(f"the manifest has {_no_column(column, self.table.columns)}")
        return self.table[column]

    def _filled(self, column: str) -> pl.Series:
        """Return a column of strings, null where a cell is blank."""
        values = self.require(column)
        return values.set(_blank(values), None)


def read_manifest(
    path: str | os.PathLike[str],
    *,
    id: str | None = None,
    image: str | None = None,
    text: str | None = None,
) -> Manifest:
    """Read a manifest and find its columns of ids, images and texts.

    A column that is not given is found by its name, in upper or lower case: ``id``, ``sample_id`` or ``image_id``;
    ``image``, ``image_path``, ``path`` or ``file``; ``text``, ``caption``, ``report`` or ``notes``; and similar
    names. A table of tiles, with columns ``slide``, ``x``, ``y``, ``width`` and ``size`` (see `headwater.tiles`) and no
    column of images, gets a column ``image`` that names them. Without an id column, a column ``id`` is made: from the
    image paths if they are unique, else from row numbers, counted from 1. The same happens if an ``image_id`` or
    ``uid`` that was not named has repeated or missing values.

    Columns of the three roles, and others whose names mark identifiers, are read as text: an id ``007`` stays
    ``007``. `headwater.sources._types` decides which of the others are numbers.

    Parameters
    ----------
    path
        A ``.csv``, ``.tsv``, ``.parquet``, ``.jsonl`` or ``.ndjson`` file, or a folder with one subfolder per
        class. A folder becomes a table of ``id``, ``image`` and ``label``, sorted by ``image``; an id is the relative
        path without its suffix, or with it if two files differ only in their suffix. A folder whose images lie in no
        subfolder becomes one without ``label``. Files and folders whose names start with a dot are skipped.
    id, image, text
        Names of the columns with these roles.

    Returns
    -------
    Manifest
        Every row has a unique id, and an image, a text, or both.

    Raises
    ------
    ManifestNotFound
        When there is no such file or folder.
    ManifestError
        When the file cannot be parsed or is empty; when a named column is missing, two columns have the same name, or
        two could have the same role; when ids repeat or are missing; when a row has neither image nor text.
    """
    path = Path(path)
    require_utf8_names([str(path.absolute())], path)
    asked = {"id": id, "image": image, "text": text}
    about = About()
    if path.is_dir():
        table, root = read_folder(path), path.absolute()
    elif path.exists():
        (table, about), root = _read_file(path, asked), path.absolute().parent
    else:
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        known = f" ({why})" if (why := why_not_found(path)) else ""
        raise ManifestNotFound(
            f"manifest not found: {path}{known}.{nearest(path.name, siblings)} Give a CSV, TSV, Parquet or JSON-lines "
            "file, or a folder of images."
        )
    if table.is_empty():
        raise ManifestError(f"{path}: the manifest has no rows")

    roles = _find_roles(table.columns, asked, path)
    if roles["image"] is None and has_tiles(table.columns) and IMAGE not in table.columns:
        table, roles["image"] = with_places(table, path), IMAGE
    image, text = roles["image"], roles["text"]
    if image is None and text is None:
        raise ManifestError(
            f"{path}: no column of images or texts was found. Pass --image COLUMN or --text COLUMN; the columns are "
            f"{_listed(table.columns)}."
        )
    table = _settled(table, roles, path)
    _check_content(table, [column for column in (image, text) if column is not None], path)

    table, found = _with_ids(table, roles["id"], asked["id"], image, path)
    return Manifest(table, id=found, image=image, text=text, root=root, about=about.of(table.columns))


def read_table(path: Path, id: str | None = None) -> pl.DataFrame:
    """Read a table whose rows need neither image nor text; column types are as in `read_manifest`.

    Raises
    ------
    ManifestNotFound, ManifestError
        As `read_manifest` does.
    """
    require_utf8_names([str(path.absolute())], path)
    if not path.is_file():
        known = f" ({why})" if (why := why_not_found(path)) else ""
        raise ManifestNotFound(f"table not found: {path}{known}. Give a CSV, TSV, Parquet or JSON-lines file.")
    return _read_file(path, {"id": id, "image": None, "text": None}, strict=False)[0]


def read_rows(path: str | os.PathLike[str], id: str | None = None) -> Manifest:
    """Read a manifest whose rows need neither image nor text; else as `read_manifest` does.

    Raises
    ------
    ManifestNotFound, ManifestError
        As `read_manifest` does, and for a folder.
    """
    path = Path(path)
    require_utf8_names([str(path.absolute())], path)
    if path.is_dir():
        raise ManifestError(f"{path} is a folder. Give a CSV, TSV, Parquet or JSON-lines file.")
    if not path.exists():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise ManifestNotFound(f"manifest not found: {path}.{nearest(path.name, siblings)}")
    table, about = _read_file(path, {"id": id, "image": None, "text": None}, strict=False)
    if table.is_empty():
        raise ManifestError(f"{path}: the manifest has no rows")
    found = as_manifest(table, path, path.absolute().parent, id)
    return replace(found, about=about.of(found.table.columns))


def as_manifest(table: pl.DataFrame, path: Path, root: Path, id: str | None = None) -> Manifest:
    """Find a table's columns of ids, and of images and texts where only one column could hold them.

    Ids are made as in `read_manifest`.

    Raises
    ------
    ManifestError
        When several columns could hold the ids, or ids repeat or are missing.
    """
    asked = {"id": id, "image": None, "text": None}
    roles = _find_roles(table.columns, asked, path, strict=False)
    table = _settled(table, roles, path)
    table, found = _with_ids(table, roles["id"], id, roles["image"], path)
    return Manifest(table, id=found, image=roles["image"], text=roles["text"], root=root)


def _with_ids(
    table: pl.DataFrame, found: str | None, asked: str | None, image: str | None, path: Path
) -> tuple[pl.DataFrame, str]:
    """Return the table and the name of its id column, which is made if there is no usable one."""
    if found is None or (asked is None and _is_weak_id(table[found])):
        table, found = _with_made_ids(table, image), "id"
    _check_ids(table[found], path)
    return table, found


def _settled(table: pl.DataFrame, roles: dict[str, str | None], path: Path) -> pl.DataFrame:
    """Return a table whose columns with a role are text, and whose other columns have types that a store can hold."""
    of_role = dict.fromkeys(column for column in roles.values() if column is not None)  # one may have two roles
    return with_plain_types(_as_identified(with_text(table, of_role, path)))


def _as_identified(table: pl.DataFrame) -> pl.DataFrame:
    """Return a table in which numeric columns whose names mark identifiers become text."""
    numbers = [c for c in table.columns if is_identifier(c) and table.schema[c].is_numeric()]
    return with_text(table, numbers, "")


def _read_file(path: Path, asked: dict[str, str | None], *, strict: bool = True) -> tuple[pl.DataFrame, About]:
    """Read a table file, and what is known of it; in a CSV, columns with a role and identifiers stay text."""
    suffix = path.suffix.lower()
    if suffix not in MANIFEST_SUFFIXES:
        known = ", ".join(MANIFEST_SUFFIXES)
        raise ManifestError(f"{path}: {suffix or 'no suffix'} is not a supported format. Supported are {known}.")
    try:
        data = read_regular(path, most=TABLE)
        if suffix == ".parquet":
            table, words = parse_parquet(data)
            return table, About.from_json(words[KEY]) if KEY in words else About()
        if suffix in _JSON_LINES:
            return _read_json_lines(data, asked, path), read_about(path)
        table = _read_text(data, _SEPARATORS[suffix], path)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, Malformed, NotParquet, NotAbout) as error:
        raise _unparsed(path, suffix, b"" if suffix == ".parquet" else data, error) from error
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read ({error.strerror or error})") from error
    of_role = _find_roles(table.columns, asked, path, strict=strict).values()
    columns = [c if c.name in of_role or is_identifier(c.name) else typed(c) for c in table.get_columns()]
    return pl.DataFrame(columns), read_about(path)


def read_text_table(path: Path) -> pl.DataFrame:
    """Read a CSV or TSV file with all cells as text.

    Raises
    ------
    ManifestError
        When it cannot be read reliably; the message names the line.
    FileNotFoundError
        When there is no such file.
    """
    suffix = path.suffix.lower()
    data = read_regular(path, most=TABLE)
    try:
        return _read_text(data, _SEPARATORS[suffix], path)
    except (pl.exceptions.PolarsError, Malformed) as error:
        raise _unparsed(path, suffix, data, error) from error


def _read_text(data: bytes, separator: str, path: Path) -> pl.DataFrame:
    data = with_newlines(data)
    header = pl.read_csv(data, separator=separator, n_rows=0, infer_schema=False).columns
    _check_header(header, data, separator, path)
    return read_text(data, separator)


def _read_json_lines(data: bytes, asked: dict[str, str | None], path: Path) -> pl.DataFrame:
    """Read JSON lines; numbers in columns with a role and in identifiers become text, exactly as written."""
    table = pl.read_ndjson(data, infer_schema_length=None)
    of_role = _find_roles(table.columns, asked, path, strict=False).values()
    written = [
        numbers_as_written(data, column)
        for column, dtype in table.schema.items()
        if (column in of_role or is_identifier(column))
        and (dtype.is_float() or (dtype == pl.String and has_decimals(data, column)))
    ]
    return table.with_columns(written)


def _unparsed(path: Path, suffix: str, data: bytes, error: Exception) -> ManifestError:
    """Say why a file cannot be read, with the line if it is known, and what to do."""
    reason = (
        (str(error).strip() or type(error).__name__).splitlines()[0] if data or suffix == ".parquet" else "it is empty"
    )
    advice = "Correct it, or export it again."
    line = not_utf8(data)
    if line is not None:
        reason, advice = f"line {line} is not in UTF-8", "Save it as UTF-8."
    elif isinstance(error, Malformed):
        reason, advice = error.reason, error.advice
    elif suffix in _JSON_LINES:
        reason = wrong_json_line(data) or reason
    return ManifestError(f"{path}: cannot be parsed as {suffix[1:]} ({reason}). {advice}")


def _check_header(header: list[str], data: bytes, separator: str, path: Path) -> None:
    """Raise if a header is not in UTF-8, uses another separator, or repeats a column name."""
    if any("\ufffd" in column for column in header):
        raise ManifestError(f"{path}: the column names are not in UTF-8. Save it as UTF-8.")
    others = [other for other in _WORDS_FOR if other != separator and other in header[0]]
    if len(header) == 1 and others:
        suffix = {separator: suffix for suffix, separator in _SEPARATORS.items()}.get(others[0])
        advice = f"Name it {path.stem}{suffix}, or save" if suffix else "Save"
        raise ManifestError(
            f"{path}: the file seems to be separated by {_WORDS_FOR[others[0]]}: its only column is {header[0]!r}. "
            f"{advice} it with {_WORDS_FOR[separator]}."
        )
    if not any("_duplicated_" in column for column in header):  # polars' name for a repeated column
        return
    data = data.lstrip(b"\r\n")
    names = pl.read_csv(data, separator=separator, n_rows=1, has_header=False, infer_schema=False).row(0)
    repeated = [name for name, n in Counter(name for name in names if name and name.strip()).items() if n > 1]
    if repeated:
        raise ManifestError(f"{path}: several columns are called {_listed(repeated)}. Give each a name of its own.")


def _find_roles(
    columns: list[str], asked: dict[str, str | None], path: Path, *, strict: bool = True
) -> dict[str, str | None]:
    """Return the column of each role: the named one, else one found by name, else None.

    If several columns could hold images or texts, raise when ``strict``, else return None for this role.
    """
    roles: dict[str, str | None] = {}
    for role, column in asked.items():
        if column is not None and column not in columns:
            raise ManifestError(f"{path}: --{role}: there is {_no_column(column, columns)}")
        try:
            roles[role] = _find_by_name(role, columns, path) if column is None else column
        except ManifestError:
            if strict or role == "id":
                raise
            roles[role] = None
    return roles


def _find_by_name(role: str, columns: list[str], path: Path) -> str | None:
    for names in _NAMES[role]:
        found = [column for column in columns if _normalised(column) in names]
        if len(found) > 1 and len(names) == 1 and names[0] in found:
            return names[0]  # the exact name is better than "ID" or "Image"
        if len(found) > 1:
            raise ManifestError(f"{path}: columns {_listed(found)} could each hold the {role}. Pass --{role} COLUMN.")
        if found:
            return found[0]
    return None


def _normalised(column: str) -> str:
    return column.strip().lower().replace(" ", "_").replace("-", "_")


def _is_weak_id(ids: pl.Series) -> bool:
    """Whether a column such as ``image_id`` has missing or repeated values, so it cannot hold sample ids."""
    return _normalised(ids.name) in _NAMES["id"][-1] and (ids.null_count() > 0 or ids.n_unique() < len(ids))


def _with_made_ids(table: pl.DataFrame, image: str | None) -> pl.DataFrame:
    """Add a first column ``id``: the image paths if they are unique, else row numbers from 1."""
    if image is not None and not _blank(table[image]).any() and table[image].n_unique() == table.height:
        ids = table[image]
    else:
        ids = pl.Series(range(1, table.height + 1)).cast(pl.String)
    return table.select(ids.alias("id"), pl.all())


def _check_content(table: pl.DataFrame, columns: list[str], path: Path) -> None:
    empty = pl.Series([True]).new_from_index(0, table.height)
    for column in columns:
        empty &= _blank(table[column])
    if empty.any():
        what = " and ".join(repr(column) for column in columns)
        raise ManifestError(
            f"{path}: {_rows(empty)} neither image nor text ({what} empty). Fill in the cells, or leave these rows out."
        )


def _check_ids(ids: pl.Series, path: Path) -> None:
    blank = _blank(ids)
    if blank.any():
        raise ManifestError(
            f"{path}: {_rows(blank)} no id in column {ids.name!r}. Fill in the ids, or pass --id COLUMN."
        )
    if ids.n_unique() < len(ids):  # counting is much faster than finding which
        n_rows = Counter(ids.filter(ids.is_duplicated()).to_list())
        repeated = [f"{sample_id!r} ({n} rows)" for sample_id, n in n_rows.items()]
        raise ManifestError(
            f"{path}: {len(repeated)} ids in column {ids.name!r} occur in several rows: "
            f"{_listed(repeated, quote=False)}. Ids must be unique: correct them, or pass --id COLUMN."
        )


def _blank(values: pl.Series) -> pl.Series:
    """Whether each string is null, empty, or white space only."""
    return values.is_null() | (values.fill_null("").str.strip_chars() == "")


def _rows(mask: pl.Series) -> str:
    """List the rows where a mask is true, with a verb: ``row 3 has`` or ``2 rows (3, 7) have``."""
    numbers = [str(index + 1) for index in mask.arg_true()]
    if len(numbers) == 1:
        return f"row {numbers[0]} has"
    return f"{len(numbers)} rows ({_listed(numbers, quote=False)}) have"


def _no_column(column: str, columns: list[str]) -> str:
    return f"no column {column!r}.{nearest(column, columns)} Columns are {_listed(columns, most=40)}."


def _listed(words: list[str], *, most: int = 5, quote: bool = True) -> str:
    shown = [repr(word) if quote else word for word in words[:most]]
    return ", ".join(shown) + (f" and {len(words) - most} more" if len(words) > most else "")
