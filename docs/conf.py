"""Sphinx configuration; build with ``sphinx-build docs docs/_build``."""

from skfewshot import __version__

project = "skfewshot"
author = "The skfewshot developers"
version = release = __version__
extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
]
autosummary_generate = True
numpydoc_show_class_members = False
# Links to headings, as GitHub makes them.
myst_heading_anchors = 3
exclude_patterns = ["_build"]
