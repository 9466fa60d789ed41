"""Sphinx settings of the API pages: all public docstrings, with warnings as errors in `.ci/run`.

`pip install '.[docs]'`, then `python -m sphinx -W -n -b html docs/api docs/api/_build`.
"""

import inspect
import re

import pauc

project = "pauc"
version = release = pauc.__version__
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "alabaster"
html_show_copyright = False
autodoc_typehints = "none"  # the docstrings say shapes and dtypes, which types do not
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True  # as written, not as evaluated
napoleon_numpy_docstring = False
napoleon_use_param = False  # "alpha, beta: ..." is two names, not a type and a name
# Names of other projects, whose pages a build without a network cannot look up.
nitpick_ignore_regex = [("py:.*", r"(torch|torchmetrics|matplotlib|numpy)\..*")]

FIELD = re.compile(r"^    (\w+): [^#]*#:? *(.+)$", flags=re.MULTILINE)


def setup(app):
    app.connect("autodoc-skip-member", skip_alias)
    app.connect("autodoc-process-docstring", add_fields)


def skip_alias(_app, _what, _name, member, skipped, _options):
    """Leave out what Python itself says of the fields of a NamedTuple."""
    return skipped or (member.__doc__ or "").startswith("Alias for field number")


def add_fields(_app, what, _name, obj, _options, lines):
    """Add the comment that stands beside each field of a NamedTuple."""
    if what == "class" and issubclass(obj, tuple):
        for name, comment in FIELD.findall(inspect.getsource(obj)):
            lines.extend(["", f"* **{name}**: {comment}"])
