"""The look of a report: one HTML page that needs nothing beside itself, on light and on dark ground."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

from .tables import Table

_MEDIA_TYPES = {".png": "image/png", ".gif": "image/gif", ".mp4": "video/mp4"}


def page(title: str, subtitle: str, body: Sequence[str]) -> str:
    """Return the whole page."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<header>
<p class="kicker">Forethought report</p>
<h1>{escape(title)}</h1>
<p class="subtitle">{escape(subtitle)}</p>
</header>
{chr(10).join(body)}
</main>
</body>
</html>
"""


def section(heading: str, parts: Sequence[str]) -> str:
    """Return a section under its heading."""
    return f"<section>\n<h2>{escape(heading)}</h2>\n{chr(10).join(part for part in parts if part)}\n</section>"


def notes(heading: str, lines: Sequence[str]) -> str:
    """Return a box that the reader should not overlook; nothing where there are no lines."""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<aside><h3>{escape(heading)}</h3><ul>{items}</ul></aside>" if lines else ""


def cards(entries: Sequence[tuple[str, str, str, str]]) -> str:
    """Return one card per (name, colour, figure, remark), the figure large."""
    return (
        '<div class="cards">'
        + "".join(
            f'<div class="card" style="--accent: {colour}"><p class="name">{escape(name)}</p>'
            f'<p class="figure">{escape(figure)}</p><p class="remark">{escape(remark)}</p></div>'
            for name, colour, figure, remark in entries
        )
        + "</div>"
    )


def table(content: Table, heading: bool = True) -> str:
    """Return a table with its title and notes."""
    head = "".join(f"<th>{escape(column)}</th>" for column in content.columns)
    rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in content.rows)
    title = f"<h3>{escape(content.title)}</h3>" if heading and content.title else ""
    remarks = "".join(f'<p class="note">{escape(note)}</p>' for note in content.notes)
    return f'{title}<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>{remarks}'


def picture(light: bytes, dark: bytes, description: str) -> str:
    """Return a figure, drawn for light and for dark ground, of which the reader's device shows one."""
    return (
        '<figure class="plot"><picture>'
        f'<source srcset="{_inline(dark, ".png")}" media="(prefers-color-scheme: dark)">'
        f'<img src="{_inline(light, ".png")}" alt="{escape(description)}"></picture></figure>'
    )


def facts(entries: Sequence[tuple[str, str]]) -> str:
    """Return names, each with what there is to say about it."""
    return "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in entries) + "</dl>"


def films(entries: Sequence[tuple[Path, str]]) -> str:
    """Return moving pictures side by side, each with its caption."""
    shown = "".join(
        f"<figure>{_film(path, caption)}<figcaption>{escape(caption)}</figcaption></figure>"
        for path, caption in entries
    )
    return f'<div class="films">{shown}</div>' if entries else ""


def code(lines: Sequence[str]) -> str:
    """Return lines to type."""
    return f"<pre><code>{escape(chr(10).join(lines))}</code></pre>"


def details(summary: str, content: str) -> str:
    """Return content that opens on demand."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def _film(path: Path, caption: str) -> str:
    source = _inline(path.read_bytes(), path.suffix)
    if path.suffix == ".mp4":
        return f'<video autoplay loop muted playsinline controls aria-label="{escape(caption)}" src="{source}"></video>'
    return f'<img src="{source}" alt="{escape(caption)}">'


def _inline(data: bytes, suffix: str) -> str:
    return f"data:{_MEDIA_TYPES[suffix]};base64,{base64.b64encode(data).decode()}"


_STYLE = """
:root {
  color-scheme: light dark;
  --ground: #ffffff; --raised: #f6f8fb; --ink: #1d2430; --soft: #5c6675; --line: #e1e6ed;
  --accent: #2f6fde; --warn-ground: #fff7e6; --warn-line: #f0c36a;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #151a21; --raised: #1c232c; --ink: #e4e8ee; --soft: #97a3b3; --line: #2c3541;
    --accent: #6d9cf0; --warn-ground: #2a2416; --warn-line: #8a6d2a;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
  -webkit-font-smoothing: antialiased;
}
main { max-width: 60rem; margin: 0 auto; padding: 4rem 1.5rem 6rem; }
header { margin-bottom: 2.5rem; }
.kicker { margin: 0; color: var(--accent); font-size: .78rem; font-weight: 600; letter-spacing: .12em;
  text-transform: uppercase; }
h1 { margin: .4rem 0 .5rem; font-size: clamp(1.7rem, 4vw, 2.5rem); line-height: 1.18; letter-spacing: -.02em;
  text-wrap: balance; }
.subtitle { margin: 0; color: var(--soft); }
section { margin-top: 3.5rem; }
h2 { margin: 0 0 1.2rem; padding-bottom: .5rem; border-bottom: 1px solid var(--line); font-size: 1.35rem;
  letter-spacing: -.01em; }
h3 { margin: 2rem 0 .6rem; font-size: 1rem; }
aside { padding: .9rem 1.3rem; background: var(--warn-ground); border-left: 3px solid var(--warn-line);
  border-radius: 0 8px 8px 0; font-size: .92rem; }
aside h3 { margin: 0 0 .3rem; }
aside ul { margin: 0; padding-left: 1.1rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .9rem;
  margin-bottom: 1.6rem; }
.card { padding: .9rem 1.1rem 1rem; background: var(--raised); border-top: 3px solid var(--accent);
  border-radius: 8px; }
.card p { margin: 0; }
.card .name { color: var(--soft); font-size: .88rem; font-weight: 600; }
.card .figure { font-size: 1.75rem; font-weight: 650; letter-spacing: -.02em; font-variant-numeric: tabular-nums; }
.card .remark { color: var(--soft); font-size: .82rem; font-variant-numeric: tabular-nums; }
figure { margin: 0; }
.plot { margin: 1.6rem 0; }
.plot img { width: 100%; height: auto; display: block; }
.films { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1rem; margin: 1.6rem 0; }
.films img, .films video { width: 100%; border-radius: 8px; background: var(--raised); display: block; }
figcaption { margin-top: .4rem; color: var(--soft); font-size: .85rem; }
.wide { overflow-x: auto; }
table { width: 100%; border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .5rem .8rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th { color: var(--soft); font-size: .8rem; font-weight: 600; vertical-align: bottom; }
th:first-child, td:first-child { padding-left: 0; text-align: left; font-weight: 600; }
tbody tr:last-child td { border-bottom: 0; }
.note { margin: .5rem 0 0; color: var(--soft); font-size: .84rem; }
pre { margin: .8rem 0; padding: .9rem 1.1rem; white-space: pre-wrap; overflow-wrap: anywhere;
  background: var(--raised); border-radius: 8px;
  font: .85rem/1.55 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .4rem 1.4rem; margin: 1.2rem 0; font-size: .9rem; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
details { margin-top: .8rem; }
summary { cursor: pointer; color: var(--soft); font-size: .92rem; }
summary:hover { color: var(--ink); }
@media print { main { padding: 0; max-width: none; } section { break-inside: avoid-page; } }
"""
