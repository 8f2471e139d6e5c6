"""Sphinx configuration; build with ``sphinx-build -W docs docs/_build``."""

import os
import re
from importlib.util import find_spec

# The build runs the examples; threads that wait must not keep the processor busy.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from skfewshot import __version__

project = "skfewshot"
author = "The skfewshot developers"
copyright = "The skfewshot developers"
version = release = __version__
extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
# MathJax as files of the pages, which then show equations without a network, too. It is
# in the extra "docs"; without it the reader's browser fetches MathJax.
if find_spec("sphinx-mathjax-offline"):
    extensions.append("sphinx-mathjax-offline")
templates_path = ["_templates"]
exclude_patterns = ["_build", "gallery", "sg_execution_times.rst"]
source_suffix = {".rst": "restructuredtext", ".md": "markdown"}

# Every reference to something of ours must be found. What other packages document is
# elsewhere, and the build is offline.
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?!skfewshot).*"), ("py:mod", ".*")]

autosummary_generate = True
autodoc_typehints = "none"
numpydoc_show_class_members = False
# An undocumented parameter, return value or object fails the build.
numpydoc_validation_checks = {"GL08", "PR01", "PR02", "RT01", "SS01", "SS05"}
numpydoc_validation_exclude = {
    r"mean_average_precision_scorer$",  # an instance, called by scikit-learn
    r"ZeroShotClassifier\.class_weight$",
    r"MultilabelStratifiedKFold\.(get_n_splits|split)$",  # scikit-learn's words
}

# Links to headings, as GitHub makes them, and $...$ for mathematics.
myst_heading_anchors = 3
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]

sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "auto_examples",
    "within_subsection_order": "FileNameSortKey",
    "doc_module": ("skfewshot",),
    "backreferences_dir": "generated/backreferences",
    "reference_url": {"skfewshot": None},
    "remove_config_comments": True,
    "show_memory": False,
    "show_signature": False,
    "min_reported_time": 1e9,
    # A broken example must break the build.
    "abort_on_example_error": True,
}

html_theme = "pydata_sphinx_theme"
html_title = "skfewshot"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_theme_options = {
    "show_prev_next": False,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "friendly",
    "pygments_dark_style": "github-dark",
}
html_sidebars = {
    "install": [],
    "equations": [],
    "benchmarks": [],
    "tiny": [],
    "changelog": [],
    "reliability": [],
    "architecture": [],
    "contributing": [],
}
html_show_sourcelink = False
copybutton_exclude = ".linenos, .gp, .go"


def _unlink_labels(app, what, name, obj, options, lines):
    """Keep the words of links into scikit-learn's own guide that we inherit."""
    for index, line in enumerate(lines):
        lines[index] = re.sub(r":(?:ref|term):`([^`<]+?)(?:\s*<[^>]*>)?`", r"\1", line)


def setup(app):
    """Connect what inherited docstrings need."""
    app.connect("autodoc-process-docstring", _unlink_labels)
