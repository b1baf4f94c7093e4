"""Stores in a folder and in a bucket, for the suite that both must pass, and their bytes where they truly are."""

from pathlib import Path

import pytest

from headwater.store import create_store
from headwater.store._files import location


@pytest.fixture(params=["folder", "s3"])
def base(request, tmp_path):
    """What the paths of stores begin with: a folder, or a bucket of its own."""
    return str(tmp_path) if request.param == "folder" else request.getfixturevalue("bucket")


@pytest.fixture
def store(base):
    return create_store(f"{base}/a.hw")


class Behind:
    """Changes files of a store behind its back: on the disk, or in the bucket, whatever its cache holds."""

    def __init__(self, s3):
        self.s3 = s3

    def read(self, path):
        place = location(path)
        return self.s3.cat_file(place) if place.startswith("s3://") else Path(place).read_bytes()

    def write(self, path, data):
        place = location(path)
        if place.startswith("s3://"):
            self.s3.pipe_file(place, bytes(data))
        else:
            Path(place).write_bytes(data)

    def remove(self, path):
        place = location(path)
        if place.startswith("s3://"):
            self.s3.rm_file(place)
        else:
            Path(place).unlink()

    def files(self, folder):
        """Every file below a folder with its bytes, locks left out."""
        place = location(folder)
        if place.startswith("s3://"):
            keys = [key for key in self.s3.find(place) if not key.endswith(".lock")]
            return {f"s3://{key}".removeprefix(f"{place}/"): self.s3.cat_file(key) for key in keys}
        files = [path for path in Path(place).rglob("*") if path.is_file() and path.suffix != ".lock"]
        return {path.relative_to(place).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def behind(base, request):
    return Behind(request.getfixturevalue("s3") if base.startswith("s3://") else None)
