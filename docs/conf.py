"""Sphinx settings of the documentation: pages in Markdown, and all public docstrings.

`pip install -e '.[docs]'`, then `python -m sphinx -W --keep-going -n -q -b html docs docs/_build`.
Warnings are errors in `.ci/run`.
"""

import inspect
import re

import pauc
import pauc.intervals
import pauc.metrics
import pauc.monitor
import pauc.reporting
from pauc.modules.base import QueuedLoss

# Public classes say that they live in `pauc`, for the sake of pickles. Their source, from which
# Sphinx takes the order of members and the comments beside fields, is in the file that defines
# them.
FILE_OF_PACKAGE = {"pauc.config": "pauc.config.options"}
for name, home in pauc._HOME.items():
    if isinstance(getattr(pauc, name), type):
        getattr(pauc, name).__module__ = FILE_OF_PACKAGE.get(home, home)
pauc.metrics.ROCBand.__module__ = "pauc.metrics.band"
# What TorchScript reads in place of a call is not what is documented.
del QueuedLoss.forward.__wrapped__
for cls in (pauc.monitor.MonitorConfig, pauc.monitor.MonitorState, pauc.monitor.MonitorStatus):
    cls.__module__ = "pauc.monitor.step"
pauc.reporting.Report.__module__ = "pauc.reporting.report"
pauc.reporting.ScoreTable.__module__ = "pauc.reporting.table"
pauc.intervals.Interval.__module__ = "pauc.intervals.interval"

project = "pauc"
version = release = pauc.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3  # the anchors that GitHub makes, so that a link works in both places

html_theme = "furo"
html_title = "pauc"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_show_copyright = False
html_show_sphinx = False

autodoc_typehints = "none"  # the docstrings say shapes and dtypes, which types do not
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True  # as written, not as evaluated
napoleon_numpy_docstring = False
napoleon_use_param = False  # "alpha, beta: ..." is two names, not a type and a name
nitpick_ignore_regex = [
    # Names of other projects, whose pages a build without a network cannot look up.
    ("py:.*", r"(torch|torchmetrics|matplotlib|numpy|sklearn)\..*"),
    # Private modules of this one: a docstring may name them for whoever reads the source.
    ("py:.*", r"pauc\.(arrays|backends|checks|config|core|modules|native|pairs|sampling)\b.*"),
    (
        "py:.*",
        r"pauc\.boosting\.(band|column|derivatives|engines|objective|parameters|rows|workers)\b.*",
    ),
    (
        "py:.*",
        r"pauc\.distributed\.(agreement|gather|opposite|packing|quantiles|ranks|sharded)\b.*",
    ),
]

FIELD = re.compile(r"^    (\w+): [^#]*#:? *(.+)$", flags=re.MULTILINE)
OUTSIDE = re.compile(r"\]\((\.\./[^)#]+)\)")


def setup(app):
    app.connect("source-read", hand_out_files)
    app.connect("autodoc-skip-member", skip_alias)
    app.connect("autodoc-process-docstring", add_fields)


def hand_out_files(_app, _page, source):
    """Turn links to files outside `docs` into downloads: the site has no page for them."""
    source[0] = OUTSIDE.sub(r"](path:\1)", source[0])


def skip_alias(_app, _what, _name, member, skipped, _options):
    """Leave out what Python itself says of the fields of a NamedTuple."""
    return skipped or (member.__doc__ or "").startswith("Alias for field number")


def add_fields(_app, what, _name, obj, _options, lines):
    """Add the comment that stands beside each field of a NamedTuple."""
    if what == "class" and issubclass(obj, tuple):
        for name, comment in FIELD.findall(inspect.getsource(obj)):
            lines.extend(["", f"* **{name}**: {comment}"])
