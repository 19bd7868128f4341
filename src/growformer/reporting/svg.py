"""Writes SVG: elements with attributes, every text escaped, and one name and one description per picture."""

from __future__ import annotations

from html import escape

from markupsafe import Markup


def number(value: float) -> str:
    """Return a coordinate, to a hundredth of a pixel."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if value % 1 else str(int(value))


def element(tag: str, *children: str, **attributes: object) -> str:
    """Return one element; underscores in attributes stand for hyphens, None leaves one out.

    Args:
        tag: its name.
        children: elements that have been made already; a text goes through ``text``.
        attributes: ``class_`` for ``class``.
    """
    said = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{number(v) if isinstance(v, float) else escape(str(v))}"'
        for name, v in attributes.items()
        if v is not None
    )
    return f"<{tag}{said}>{''.join(children)}</{tag}>" if children else f"<{tag}{said}/>"


def text(content: object, x: float, y: float, class_: str | None = None, **attributes: object) -> str:
    """Return a text at a place."""
    return element("text", escape(str(content), quote=False), x=float(x), y=float(y), class_=class_, **attributes)


def title(content: str) -> str:
    """Return what a mark says when it is pointed at, or reached by arrow keys."""
    return element("title", escape(content, quote=False))


def mark(*shapes: str, says: str, class_: str | None = None) -> str:
    """Return shapes that say something together."""
    return element("g", title(says), *shapes, class_=f"mark {class_}" if class_ else "mark")


def picture(*children: str, width: float, height: float, label: str, class_: str | None = None) -> Markup:
    """Return a whole picture, which readers of screens meet as one image with a label.

    It takes part in the order of keys: the page's script walks through its marks by arrow keys.
    """
    return Markup(
        element(
            "svg",
            *children,
            role="img",
            aria_label=label,
            viewBox=f"0 0 {number(width)} {number(height)}",
            width=number(width),
            height=number(height),
            tabindex="0",
            class_=class_,
        )
    )


def rectangles(boxes: list[tuple[float, float, float, float]]) -> str:
    """Return the path of boxes (x, y, width, height)."""
    return "".join(f"M{number(x)} {number(y)}h{number(w)}v{number(h)}h{number(-w)}z" for x, y, w, h in boxes)


__all__ = ["element", "mark", "number", "picture", "rectangles", "text", "title"]
