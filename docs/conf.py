"""How Sphinx builds the documentation: `make docs`."""

import sys
from importlib.metadata import version as installed_version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "wsgipool"
author = "The wsgipool developers"
copyright = author
version = release = installed_version("wsgipool")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click", "wsgipool_docs"]
exclude_patterns = ["_build", "_ext"]

# Links to a heading of a page, `page.md#heading`, and to pages: a link that leads nowhere is a warning, so an error.
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
nitpicky = True

html_theme = "furo"
html_title = f"wsgipool {version}"
html_copy_source = False
html_show_sourcelink = False

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
napoleon_google_docstring = True
napoleon_numpy_docstring = False

# Docstrings write code in single backticks.
default_role = "code"
# A name of the public API must have its entry. Other packages, type variables and what is private have none.
nitpick_ignore_regex = [("py:.*", r"(?!wsgipool\.).*"), ("py:.*", r"wsgipool\.[a-z_]+\..*")]
