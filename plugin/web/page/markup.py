"""HTML from values: text is escaped unless it is :class:`Html`, which only this module makes."""

from __future__ import annotations

from html import escape


class Html(str):
    """Markup that is safe as it stands."""

    __slots__ = ()


Content = str | Html | None


def element(name: str, *children: Content, **attributes: str | int | bool | None) -> Html:
    """``<name …>children</name>``.

    Attributes that are ``None`` or false are left out, those that are true have no value; a
    trailing underscore is dropped (``class_``) and others become hyphens (``aria_label``). For
    elements that have an end.
    """
    given = "".join(
        f" {_attribute(key)}" if value is True else f' {_attribute(key)}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    return Html(f"<{name}{given}>{join(*children)}</{name}>")


def join(*children: Content) -> Html:
    return Html(
        "".join(child if isinstance(child, Html) else escape(child) for child in children if child)
    )


def _attribute(key: str) -> str:
    return key.rstrip("_").replace("_", "-")
