"""Shows the doctests at the end of docstrings as code: the parser wants them under a heading of their own."""

import re
import textwrap
from typing import Any

import griffe


class Examples(griffe.Extension):
    """Put ``Examples:`` above each run of doctest lines."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"(?:^>>> .*\n?(?:^.+\n?)*)+", _under_heading, obj.docstring.value, flags=re.MULTILINE)


def _under_heading(match: re.Match) -> str:
    return "Examples:\n" + textwrap.indent(match.group(0), "    ")
