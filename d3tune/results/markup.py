"""Tables as Markdown, LaTeX with booktabs, and HTML; what a cell says is shown, and never obeyed."""

import html
import re
from collections.abc import Sequence

SPECIAL = str.maketrans(
    {"±": r"$\pm$", "Δ": r"$\Delta$", "–": "--", "\\": r"\textbackslash{}", "~": r"\textasciitilde{}"}
    | {"^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}
    | {character: "\\" + character for character in "%&_#${}"}
)
# a link too: what follows its text
MARKDOWN = re.compile(r"[\\|`*<~]|(?<=\])[(\[]")


def with_sd(mean: float, sd: float | None) -> str:
    """``0.812 ± 0.003``, or the mean alone."""
    return f"{mean:.3f}" if sd is None else f"{mean:.3f} ± {sd:.3f}"


def plain(text: str) -> str:
    """A text on one line; what a terminal would obey instead of show is replaced."""
    line = " ".join(text.split())
    return "".join(sign if sign.isprintable() else "?" for sign in line)


def markdown(text: str) -> str:
    """A text as a cell of a Markdown table."""
    return MARKDOWN.sub(r"\\\g<0>", plain(text))


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of plain cells."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(markdown, line)) + " |" for line in lines)


def latex(text: str) -> str:
    """A text as LaTeX prints it, on one line."""
    return escape_latex(plain(text))


def escape_latex(text: str) -> str:
    """A text as LaTeX prints it."""
    return text.translate(SPECIAL)


def latex_table(head: Sequence[str], rows: Sequence[Sequence[str]], columns: str) -> str:
    """A table for the booktabs package.

    Args:
        head: of each column, as LaTeX.
        rows: of cells, as LaTeX.
        columns: their alignment, e.g. ``lcc``.
    """
    first, *others = [_latex_row(line) for line in (head, *rows)]
    begin = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", first, r"\midrule"]
    return "\n".join([*begin, *others, r"\bottomrule", r"\end{tabular}"])


def latex_comment(text: str) -> str:
    """A text that LaTeX does not read."""
    return f"% {plain(text)}"


def _latex_row(cells: Sequence[str]) -> str:
    line = " & ".join(cells) + r" \\"
    # after the end of a row these two would be an option of it
    return "{}" + line if line.startswith(("[", "*")) else line


def html_table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of plain cells with a caption; the first column heads its rows."""
    names = "".join(f'<th scope="col">{html_text(name)}</th>' for name in head)
    lines = [
        f'<tr><th scope="row">{html_text(first)}</th>{"".join(f"<td>{html_text(cell)}</td>" for cell in cells)}</tr>'
        for first, *cells in rows
    ]
    body = "\n".join(lines)
    return (
        f"<table>\n<caption>{html_text(caption)}</caption>\n<thead><tr>{names}</tr></thead>\n"
        f"<tbody>\n{body}\n</tbody>\n</table>"
    )


def html_paragraph(text: str) -> str:
    """A paragraph of plain text."""
    return f"<p>{html_text(text)}</p>"


def html_page(title: str, parts: Sequence[str]) -> str:
    """One page that needs nothing else: no script, no file, no network.

    Args:
        title: plain text.
        parts: HTML, from `html_table` and `html_paragraph`.
    """
    name = html_text(title)
    begin = ["<!DOCTYPE html>", '<html lang="en">', "<head>", '<meta charset="utf-8">', f"<title>{name}</title>"]
    return "\n".join([*begin, f"<style>{STYLE}</style>", "</head>", "<body>", f"<h1>{name}</h1>", *parts, END])


END = "</body>\n</html>"
STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 2em; color: #111; background: #fff }
table { border-collapse: collapse; margin: 0 0 2em; font-variant-numeric: tabular-nums }
caption { text-align: left; font-weight: bold; padding: .4em 0 }
th, td { text-align: left; padding: .25em .8em .25em 0; font-weight: normal; white-space: nowrap }
thead { border-top: 2px solid; border-bottom: 1px solid }
tbody { border-bottom: 2px solid }
"""


def html_text(text: str) -> str:
    """A text as HTML shows it, also in an attribute."""
    return html.escape(plain(text))
