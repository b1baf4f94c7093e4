"""The packages of extras that are not installed: what needs one of them is skipped, or not even loaded."""

import ast
import importlib.util

import pytest

from headwater.errors import MissingExtra

EXTRAS = {"torch", "torchvision", "timm", "open_clip", "transformers", "peft", "faiss", "xgboost", "optuna", "ray"}
EXTRAS |= {"matplotlib", "s3fs", "fsspec", "h5py", "anndata", "datasets", "lance", "pyarrow", "moto", "xarray", "dask"}
EXTRAS |= {"sksurv", "fastapi", "uvicorn", "httpx", "schemathesis", "playwright", "openpyxl"}
ABSENT = {name for name in EXTRAS if importlib.util.find_spec(name) is None}
"""Packages of extras that are not here: what needs them is skipped."""


def _at_the_top(path):
    """Return the packages that a file imports when it is loaded."""
    nodes = ast.parse(path.read_text()).body
    names = [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
    names += [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return {str(name).partition(".")[0] for name in names}


def pytest_ignore_collect(collection_path):
    """Leave out a file that cannot be loaded without the package of an extra."""
    is_test = collection_path.name.startswith("test_") and collection_path.suffix == ".py"
    return True if ABSENT and is_test and _at_the_top(collection_path) & ABSENT else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup():
    """Skip a test whose fixtures come upon the package of an extra that is not installed."""
    return (yield from _without_extras())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call():
    """Skip a test that comes upon the package of an extra that is not installed."""
    return (yield from _without_extras())


def _without_extras():
    try:
        return (yield)
    except Exception as error:
        cause = error
        while ABSENT and cause is not None:
            lacking = isinstance(cause, ImportError) and str(cause.name).partition(".")[0] in ABSENT
            if lacking or isinstance(cause, MissingExtra):
                pytest.skip(str(cause))
            cause = cause.__cause__ or cause.__context__
        raise
