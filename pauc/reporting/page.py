"""A report as text for a terminal, and as one HTML page that needs nothing from a network."""

from __future__ import annotations

import textwrap
from html import escape

from pauc.reporting.findings import Findings
from pauc.reporting.sections import Section, sections

__all__ = ["as_html", "as_text"]

_WIDTH = 96
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; margin: 2rem auto;
  max-width: 62rem; padding: 0 1rem }
h1 { font-size: 1.6rem; margin-bottom: .2rem } h2 { font-size: 1.15rem; margin: 2rem 0 .4rem }
p { margin: .3rem 0; max-width: 46rem }
.scroll { overflow-x: auto } table { border-collapse: collapse; margin: .6rem 0; font-size: .9rem }
th, td { padding: .3rem .9rem .3rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid #ddd; font-variant-numeric: tabular-nums }
th { font-weight: 600; border-bottom-color: #888 } figure { margin: .8rem 0 }
figcaption { font-size: .9rem; color: #555 }
svg { max-width: 100%; height: auto }
"""


def as_text(report: Findings) -> str:
    """Return the report for a terminal."""
    parts = [report.title, "=" * len(report.title)]
    for section in sections(report):
        parts += ["", section.heading, "-" * len(section.heading)]
        parts += [
            line for sentence in section.sentences for line in textwrap.wrap(sentence, _WIDTH)
        ]
        parts += _text_table(section.table)
    return "\n".join(parts)


def as_html(report: Findings) -> str:
    """Return the report as a page."""
    from pauc.reporting.pictures import picture  # needs matplotlib, which the text does not

    body = []
    for section in sections(report):
        body.append(f"<section>\n<h2>{escape(section.heading)}</h2>")
        body += [f"<p>{escape(sentence)}</p>" for sentence in section.sentences]
        body += _html_table(section)
        if section.picture:
            body.append(f"<figure>{picture(section.picture, report)}</figure>")
        body.append("</section>")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{escape(report.title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(report.title)}</h1>\n" + "\n".join(body) + "\n</body>\n</html>\n"
    )


def _text_table(table: tuple[tuple[str, ...], ...]) -> list[str]:
    """Return aligned lines; a table too wide for a terminal is turned, a line for each cell."""
    if not table:
        return []
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    if sum(widths) + 2 * len(widths) > _WIDTH + 4:
        return _turned(table)
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
             for row in table]  # fmt: skip
    return ["", lines[0], "  ".join("-" * width for width in widths), *lines[1:]]


def _turned(table: tuple[tuple[str, ...], ...]) -> list[str]:
    """Return a block for each row: its first cell, then name and cell of each other column."""
    (_, *names), *rows = table
    width = max(map(len, names))
    lines = []
    for first, *cells in rows:
        lines += ["", first]
        lines += [f"  {name.ljust(width)}  {cell}" for name, cell in zip(names, cells, strict=True)]
    return lines


def _html_table(section: Section) -> list[str]:
    if not section.table:
        return []
    head, *rows = section.table
    cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    # An interval stands below its estimate, in all cells alike.
    lines = ["".join(f"<td>{escape(c).replace(' (', '<br>(')}</td>" for c in row) for row in rows]
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return [f'<div class="scroll"><table>\n<tr>{cells}</tr>\n{body}\n</table></div>']
