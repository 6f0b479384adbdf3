"""How Sphinx builds these pages: ``make docs``."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_ext")]

from segrobust.core.version import __version__  # noqa: E402

project, author = "segrobust", "The segrobust authors"
copyright = author
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton", "from_code"]
exclude_patterns = ["_build", "_ext"]
html_theme = "furo"
html_title = f"segrobust {__version__}"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_copy_source = False

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
myst_all_links_external = False
suppress_warnings = ["myst.strikethrough"]

autodoc_typehints = "none"  # the docstrings say types, shapes and units
autodoc_member_order = "bysource"
maximum_signature_line_length = 100
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_custom_sections = [("Options", "params_style")]

nitpicky = True  # a name in a docstring that leads nowhere is a warning, but for what no page is about
nitpick_ignore_regex = [(r"py:.*", r"segrobust\.(runs|checks|datasets|models|attacks|studies|commands)\..*")]
nitpick_ignore_regex += [(r"py:.*", r"(torch|numpy|mmengine|collections)\..*"), (r"py:.*", r"[A-Za-z_]+")]
