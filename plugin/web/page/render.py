"""The status page, from the document of ``/api/v1/state``.

The templates beside this module hold the markup; pure functions prepare their values. Importing
this module loads Jinja2 and compiles the templates.
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


#: The page is self-contained, so nothing else may load or run, whatever a pod's name contains.
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
    """Removes line breaks with their indentation beside tags, and turns them into a space within
    tags and text: templates are indented, the page is not.
    """

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        del name, filename
        return re.sub(r"\s*\n\s*", " ", re.sub(r"(?<=[>}])\s*\n\s*|\s*\n\s*(?=[<{])", "", source))


def _environment() -> Environment:
    """Compiles every template, so that the first page does not wait for it."""
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        extensions=[_Indentation],
        auto_reload=False,
    )
    environment.globals["marks"] = MARKS
    for name in environment.list_templates(extensions=["html"]):
        environment.get_template(name)
    return environment


_PAGE = _environment().get_template("page.html")


def render(document: Json, now: float) -> str:
    """The whole page. `document` is :func:`plugin.web.state.document`; `now` is wall clock time."""
    return _PAGE.render(
        style=Markup(_STYLE),  # noqa: S704 — ours, with its hash in the policy
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
