"""Pieces of a page: text that is no markup, pictures, bars, and the page itself."""

import base64
import html
import io
import os
from collections.abc import Iterable, Sequence
from typing import Any

from skfewshot.clip._holders import as_images
from skfewshot.clip._images import read_image
from skfewshot.clip._unreadable import ImageReadError

#: Pixels of the longer side of a picture, which is shown smaller than that.
_SIDE, _QUALITY = 144, 72
_LONGEST_NAME = 80

_STYLE = """
:root { color-scheme: light dark; --back: #fff; --card: #f4f6f8; --text: #1b1f24;
  --soft: #59636e; --line: #d5dae0; --blue: #0072b2; --red: #c4500b; --green: #007a5a; }
@media (prefers-color-scheme: dark) { :root { --back: #14171a; --card: #1f2429;
  --text: #e8eaed; --soft: #9ba6b2; --line: #363d45; --blue: #56b4e9; --red: #f0883e;
  --green: #3fc49a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--text); line-height: 1.45;
  font: 16px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 1.2rem 1rem 4rem; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .2rem 0 .4rem; }
h2 { font-size: 1.15rem; margin: 2.4rem 0 .3rem; }
h1, h2, figcaption, td, th, bdi { overflow-wrap: anywhere; }
p { margin: .3rem 0 .8rem; max-width: 44rem; }
.soft, figcaption, th { color: var(--soft); }
.good { color: var(--green); } .bad { color: var(--red); }
.tiles { display: grid; gap: .6rem; margin: 1.2rem 0;
  grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); }
.tile { background: var(--card); border-radius: .5rem; padding: .6rem .8rem; }
.tile b { display: block; font-size: 1.5rem; line-height: 1.2; }
.tile span { font-size: .85rem; color: var(--soft); }
.pictures { display: grid; gap: .7rem;
  grid-template-columns: repeat(auto-fill, minmax(6.4rem, 1fr)); margin: .7rem 0 1rem; }
figure { margin: 0; min-width: 0; }
figure img, .none { display: block; width: 100%; aspect-ratio: 1; object-fit: cover;
  border-radius: .35rem; background: var(--card); }
.none { display: grid; place-items: center; color: var(--soft); font-size: .8rem;
  text-align: center; padding: .3rem; }
figcaption { font-size: .8rem; line-height: 1.3; margin-top: .25rem; }
figcaption b { color: var(--text); font-weight: 600; }
.file { opacity: .8; font-size: .92em; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th { text-align: left; font-weight: 500; font-size: .82rem; }
th, td { padding: .3rem .5rem .3rem 0; border-bottom: 1px solid var(--line);
  vertical-align: middle; }
td.number { white-space: nowrap; width: 30%; }
.bar { display: inline-block; height: .6rem; border-radius: .3rem; min-width: 1px;
  background: var(--blue); margin-right: .4rem; vertical-align: baseline; }
.row { display: flex; flex-wrap: wrap; gap: 1.2rem; align-items: center; }
svg { width: 17rem; max-width: 100%; height: auto; }
svg text { font-size: 11px; fill: var(--soft); }
details { margin: .4rem 0; } summary { cursor: pointer; color: var(--blue); }
pre { background: var(--card); padding: .8rem; border-radius: .5rem; overflow-x: auto;
  font-size: .82rem; line-height: 1.4; }
@media print { details > * { display: block; } body { font-size: 12px; } }
"""
# The page fetches nothing and runs nothing, whatever a name in it may say.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def escaped(value: Any) -> str:
    """Return text that is no markup, and that a file can hold."""
    return html.escape(str(value).encode("utf-8", "replace").decode(), quote=True)


def name(value: Any) -> str:
    """Return the name of a class, whatever it is written in, not too long."""
    text = " ".join(str(value).split())
    if len(text) > _LONGEST_NAME:
        text = f"{text[: _LONGEST_NAME - 1]}…"
    return f"<bdi>{escaped(text)}</bdi>"


def percent(share: float) -> str:
    """Return a share in per cent."""
    return f"{100 * share:.0f}&nbsp;%" if share == share else "-"


def bar(share: float, label: str, color: str = "blue") -> str:
    """Return a bar of a share of the room that there is, and a label."""
    width = 0.0 if share != share else 5.5 * max(0.0, min(1.0, share))
    style = f"width:{width:.2f}rem;background:var(--{color})"
    return f'<span class="bar" style="{style}"></span>{label}'


def tiles(values: Sequence[tuple[str, str]]) -> str:
    """Return numbers, large, each with what it is."""
    inner = "".join(
        f'<div class="tile"><b>{number}</b><span>{what}</span></div>'
        for number, what in values
    )
    return f'<div class="tiles">{inner}</div>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; cells are markup, all but the first of them numbers."""
    heads = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join(
        f"<tr><td>{row[0]}</td>"
        + "".join(f'<td class="number">{cell}</td>' for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"


def folded(summary: str, content: str) -> str:
    """Return what is shown when it is asked for."""
    return f"<details><summary>{summary}</summary>{content}</details>"


def section(title: str, intro: str, content: str = "") -> str:
    """Return a part of the page."""
    return f"<section><h2>{title}</h2><p>{intro}</p>{content}</section>"


def page(title: str, parts: Sequence[str]) -> str:
    """Return the whole page, which needs no other file."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{escaped(title)}</title><style>{_STYLE}</style></head>"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def reliability(points: Sequence[tuple[float, float, int]]) -> str:
    """Return a drawing of accuracy by confidence; `points` have counts, too.

    Parameters
    ----------
    points : sequence of (confidence, accuracy, count)
    """
    side, left, bottom = 200, 34, 26
    most = max((count for *_, count in points), default=1)

    def place(x: float, y: float) -> tuple[float, float]:
        return left + side * x, 8 + side * (1 - y)

    (x0, y0), (x1, y1) = place(0, 0), place(1, 1)
    marks = []
    for confidence, accuracy, count in points:
        x, y = place(confidence, accuracy)
        radius = 3 + 7 * (count / most) ** 0.5
        says = f"{count} images: said {confidence:.2f}, right {accuracy:.2f}"
        marks.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="var(--blue)" '
            f'fill-opacity=".75"><title>{says}</title></circle>'
        )
    return (
        f'<svg viewBox="0 0 {side + left + 12} {side + bottom + 16}" role="img" '
        'aria-label="accuracy by confidence">'
        f'<rect x="{x0}" y="{y1}" width="{side}" height="{side}" fill="none" '
        'stroke="var(--line)"/>'
        f'<line x1="{x0}" y1="{y0}" x2="{x1}" y2="{y1}" stroke="var(--soft)" '
        f'stroke-dasharray="4 4"/>{"".join(marks)}'
        f'<text x="{x0}" y="{y0 + 14}">0</text>'
        f'<text x="{x1}" y="{y0 + 14}" text-anchor="end">1</text>'
        f'<text x="{(x0 + x1) / 2}" y="{y0 + 14}" text-anchor="middle">said</text>'
        f'<text x="{x0 - 6}" y="{y0}" text-anchor="end">0</text>'
        f'<text x="{x0 - 6}" y="{y1 + 8}" text-anchor="end">1</text>'
        f'<text x="12" y="{(y0 + y1) / 2}" text-anchor="middle" '
        f'transform="rotate(-90 12 {(y0 + y1) / 2})">right</text></svg>'
    )


class Pictures:
    """Small pictures of images, made when they are first shown.

    Parameters
    ----------
    images : sequence of images or None
        As a featurizer takes them; None shows captions alone.
    n_images : int
        How many there have to be.
    argument : str
        What the user calls them.
    """

    def __init__(self, images: Any, n_images: int, argument: str) -> None:
        self._images = None if images is None else as_images(images)
        self._made: dict[int, tuple[str, str]] = {}
        if self._images is None:
            return
        if not hasattr(self._images, "__len__"):
            raise TypeError(
                f"{argument} must be a sequence, of which pictures can be taken one by "
                f"one; got {type(images).__name__}."
            )
        if len(self._images) != n_images:
            raise ValueError(
                f"{argument} has {len(self._images)} images; wanted are {n_images}, "
                "one for each row."
            )

    def figure(self, index: int, caption: str) -> str:
        """Return a picture and its caption, which is markup."""
        if index not in self._made:  # one image may be in several parts of a page
            self._made[index] = self._make(index)
        shown, file = self._made[index]
        if file:
            caption += f'<br><span class="file">{name(file)}</span>'
        return f"<figure>{shown}<figcaption>{caption}</figcaption></figure>"

    def _make(self, index: int) -> tuple[str, str]:
        """Return a picture, and the name of its file."""
        item = None if self._images is None else self._images[int(index)]
        file = ""
        if isinstance(item, str | os.PathLike) and len(str(item)) < 4096:
            file = os.path.basename(os.fspath(item))
        return self._image(item, index, file), file

    def _image(self, item: Any, index: int, file: str) -> str:
        if item is None:
            return ""
        try:
            picture = read_image(item, int(index))
        except (ImageReadError, OSError, TypeError, ValueError):
            return '<div class="none">no picture</div>'
        picture.thumbnail((_SIDE, _SIDE))
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=_QUALITY)
        data = base64.b64encode(buffer.getvalue()).decode()
        alt = escaped(file or f"image {index}")
        return f'<img alt="{alt}" src="data:image/jpeg;base64,{data}">'

    def grid(self, figures: Iterable[tuple[int, str]]) -> str:
        """Return pictures, from (index, caption)."""
        inner = "".join(self.figure(index, caption) for index, caption in figures)
        return f'<div class="pictures">{inner}</div>'
