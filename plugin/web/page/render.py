"""The status page: a node's GPUs drawn as memory slices, from the same document as
``/api/v1/state``.

The templates beside this module hold the markup, and functions from values to values make what they
show. Importing this module loads Jinja2 and compiles the templates.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from jinja2.ext import Extension
from markupsafe import Markup

from plugin.web.page.gpus import gpus, legend
from plugin.web.page.node import attention, header, resources
from plugin.web.page.words import MARKS, Json

_FOLDER = Path(__file__).parent
_STYLE, _SCRIPT = ((_FOLDER / f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))


def _source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


#: The page brings everything along, so nothing else may be loaded or run, whatever a pod's name
#: contains.
HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "Content-Security-Policy": (
            f"default-src 'none'; style-src {_source(_STYLE)}; script-src {_source(_SCRIPT)}; "
            "connect-src 'self'; "
            "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        ),
        "Referrer-Policy": "no-referrer",
        "X-Frame-Options": "DENY",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
    }
)


class _Indentation(Extension):
    """A line break with its indentation is nothing beside a tag, and a space within one or within
    text: so templates are indented for their readers, and the page has no white space of theirs.
    """

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        del name, filename
        return re.sub(r"\s*\n\s*", " ", re.sub(r"(?<=[>}])\s*\n\s*|\s*\n\s*(?=[<{])", "", source))


def _environment() -> Environment:
    """Every template is compiled already: the first page shall not wait for that."""
    made = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        extensions=[_Indentation],
        auto_reload=False,
    )
    made.globals["marks"] = MARKS
    for name in made.list_templates(extensions=["html"]):
        made.get_template(name)
    return made


_PAGE = _environment().get_template("page.html")


def render(document: Json, now: float) -> str:
    """The whole page. `document` is :func:`plugin.web.state.document`, `now` the wall clock's
    time.
    """
    return _PAGE.render(
        style=Markup(_STYLE),  # noqa: S704 — ours, and its hash is in the policy
        script=Markup(_SCRIPT),  # noqa: S704 — as the style
        now=now,
        version=document["version"],
        header=header(document, now),
        attention=attention(document),
        resources=resources(document, now),
        allocations_known=document["allocationsKnown"],
        legend=legend(document),
        gpus=gpus(document, now),
    )
