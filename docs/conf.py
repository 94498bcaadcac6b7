"""The documentation's settings; `make docs` builds it into out/docs."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "_extensions"))

project = "gumbel_ext"
release = (HERE.parent / "gumbel_ext" / "version.txt").read_text().strip()
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton", "mathml"]
exclude_patterns = ["_extensions"]

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]  # pages that are also read on a forge begin where they like

default_role = "code"  # `name` in a docstring
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True

html_theme = "furo"
html_title = f"gumbel_ext {release}"
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
copybutton_exclude = ".linenos, .gp, .go"
