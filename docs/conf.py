"""The site: built by ``sphinx-build -W -n docs site``, without a network, and readable from a folder."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_extensions")]

from headwater import __version__  # noqa: E402  (this checkout's)

project = "headwater"
author = "the headwater authors"
project_copyright = f"2026, {author}"
version = release = __version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",  # for its role
    "numpydoc",
    "sphinx_design",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "recipe_pages",
    "command_reference",
    "python_reference",
    "beyond_docs",
]
exclude_patterns = ["_build", "_extensions"]
language = "en"

# Pages are Markdown, as they are read in the repository.
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}  # the gallery writes .rst
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
suppress_warnings = ["myst.header"]  # a page of the reference may start with a smaller heading

# The reference comes from docstrings; `name` links where there is something to link to.
default_role = "autolink"
add_module_names = False
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autosummary_generate = False
numpydoc_show_class_members = False
numpydoc_validation_checks: set[str] = set()

smartquotes = False  # two hyphens are two hyphens

# Furo asks nothing of other servers; the search runs in the reader's browser, also from a folder.
html_theme = "furo"
html_title = f"headwater {release}"
html_copy_source = False
html_show_sphinx = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {"navigation_with_keys": True}
copybutton_exclude = ".linenos, .gp, .go"

# Recipes as pages. They are shown, not run: `pytest -m recipes` runs them. `-D plot_gallery=1` runs them here too.
sphinx_gallery_conf = {
    "examples_dirs": "../recipes",
    "gallery_dirs": "gallery",
    "filename_pattern": r"/([a-d]\d+|study)_",
    "ignore_pattern": r"(^|/)(support|table|builtin_clip|__init__)\.py$",
    "plot_gallery": "False",
    "reset_argv": "recipe_pages.small",
    "within_subsection_order": "recipe_pages.ByNumber",
    "download_all_examples": False,
    "show_memory": False,
    "show_signature": False,
    "min_reported_time": 1e9,
    "copyfile_regex": r".*\.toml",
    "nested_sections": False,
    "write_computation_times": False,
}
