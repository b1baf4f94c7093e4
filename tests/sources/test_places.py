"""A path at which there is no file is answered with what is the matter."""

import os
import unicodedata

import pytest

from headwater.errors import ImageNotFound, ManifestError, ManifestNotFound
from headwater.sources import load_bytes, read_manifest, read_table
from headwater.sources._places import why_not_found

COMPOSED = unicodedata.normalize("NFC", "Müller é.png")
DECOMPOSED = unicodedata.normalize("NFD", COMPOSED)


@pytest.fixture
def folder(tmp_path):
    """A folder with an image below it, and names in both forms of Unicode."""
    (tmp_path / "scans").mkdir()
    for name in ("1.png", "Case 2.PNG"):
        (tmp_path / "scans" / name).write_bytes(b"x")
    (tmp_path / "nfc").mkdir()
    (tmp_path / "nfc" / COMPOSED).write_bytes(b"x")
    (tmp_path / "nfd").mkdir()
    (tmp_path / "nfd" / DECOMPOSED).write_bytes(b"x")
    (tmp_path / "broken.png").symlink_to(tmp_path / "nowhere")
    return tmp_path


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("scans\\1.png", "backslashes"),
        ("C:\\scans\\1.png", "a Windows path with a drive: write the path on this machine"),
        (" scans/1.png", "blanks before or after the name: write 'scans'"),
        ("scans/1.png ", "blanks before or after the name: write '1.png'"),
        ("scans/ 1.png", "blanks before or after the name: write '1.png'"),
        (f"nfc/{DECOMPOSED}", "the file's name has composed letters"),
        (f"nfd/{COMPOSED}", "the file's name has decomposed letters"),
        ("~/scans/1.png", "~ is not expanded: write the whole path"),
        ("$HOME/scans/1.png", "variables such as $HOME"),
        ("scans/1.PNG", "there is '1.png', which differs in case"),
        ("SCANS/1.png", "there is 'scans', which differs in case"),
        ("scans/case 2.png ", "there is 'Case 2.PNG', which differs in case, blanks or letters"),
        ("'scans/1.png'", "the name is in quotation marks: write 'scans'"),
        ("scans/'1.png'", "the name is in quotation marks: write '1.png'"),
        ("scans/1.jpg", "there is '1.png', "),
        ("scans/1", "there is '1.png', "),
        ("scan/1.png", "there is no folder 'scan'"),
        ("scans/1.png/2.png", "'1.png' is a file, not a folder"),
        ("broken.png", "'broken.png' is a link to a missing file"),
        ("https://example.org/1.png", "https:// is a URL"),
        ("file:///scans/1.png", "file:// is a URL"),
    ],
)
def test_what_is_the_matter_with_a_path(folder, written, words):
    """Backslashes, blanks, forms of Unicode, ~ and the like are named, with what to write."""
    (folder / "m.csv").write_text(f'id,image\na,"{written}"\n', encoding="utf-8")
    (path,) = read_manifest(folder / "m.csv").image_paths()
    with pytest.raises(ImageNotFound, match="image file not found: ") as caught:
        load_bytes(path)
    assert words in str(caught.value)


def test_a_path_about_which_nothing_is_known(folder):
    """Where no name is nearly so, the path alone is said; and nothing is the matter with a file that is there."""
    with pytest.raises(ImageNotFound, match=r"not found: .*other\.png$"):
        load_bytes(folder / "scans" / "other.png")
    assert why_not_found(folder / "scans" / "1.png") == ""
    assert why_not_found("a\0b") == ""


def test_a_file_that_comes_later_is_seen(folder):
    """Names that were listed once are listed anew when the folder has changed."""
    assert why_not_found(folder / "scans" / "NEW.png") == ""
    (folder / "scans" / "new.png").write_bytes(b"x")
    os.utime(folder / "scans", (1, 1))
    assert "there is 'new.png'" in why_not_found(folder / "scans" / "NEW.png")


def test_a_manifest_or_table_that_is_not_found(folder):
    """The same is said of a manifest and of a table."""
    (folder / "m.csv").write_text("id,text\na,x\n")
    for read in (read_manifest, read_table):
        with pytest.raises(ManifestNotFound, match="which differs in case"):
            read(folder / "M.csv")
        with pytest.raises(ManifestNotFound, match="~ is not expanded: write the whole path"):
            read("~/m.csv" if read is read_manifest else folder / "~" / "m.csv")


@pytest.mark.parametrize("name", [b"caf\xe9.png", b"\xff\xfe.png", b"a\x80/b.png", b"x\xe9y.tif", b"\xc3.jpg"])
@pytest.mark.parametrize("below", ["benign", "."])
def test_names_that_are_no_text_are_refused(tmp_path, name, below):
    """A folder with names in another encoding is refused, and the message shows their bytes."""
    path = tmp_path / below / os.fsdecode(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    with pytest.raises(ManifestError) as caught:
        read_manifest(tmp_path)
    str(caught.value).encode()
    assert "not in UTF-8" in str(caught.value) or b"/" in name


def test_a_manifest_in_a_folder_whose_name_is_no_text(tmp_path):
    """A manifest below such a folder is refused, since its images could not be named."""
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    (folder / "m.csv").write_text("id,image\na,1.png\n")
    with pytest.raises(ManifestError, match="not in UTF-8") as caught:
        read_manifest(folder / "m.csv")
    str(caught.value).encode()
