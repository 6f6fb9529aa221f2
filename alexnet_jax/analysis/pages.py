"""Pages of text, tables and pictures, as HTML in one file or as Markdown.

A page is a list of blocks. Texts may contain `code`, **bold** and links in Markdown's syntax; `literal` makes a name
from a file a part of them. Links lead to http, https and relative addresses only.
"""

import base64
import html
import re
from collections.abc import Sequence
from typing import Literal

from alexnet_jax.runtime import text as texts

# A _ between letters or digits does not act, nor does what acts at the beginning of a line only.
MARKUP = re.compile(r"(?<![^\W_])_|_(?![^\W_])|[!#$&*:<>@\[\\\]`|~]")

Rows = Sequence[Sequence[str]]  # of a table; the first row is the head
Block = (
    tuple[Literal["title", "heading", "text", "code"], str]
    | tuple[Literal["table"], Rows]
    | tuple[Literal["picture"], str, str, bytes]  # name, caption and PNG
)

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 66rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1, h2 { line-height: 1.2; margin-top: 2.2rem }
table { border-collapse: collapse; margin: 1rem 0; font-size: 0.9rem; display: block; overflow-x: auto }
th, td { border: 1px solid #ddd; padding: 0.3rem 0.6rem; text-align: left; vertical-align: top }
td { min-width: 5rem }
td:first-child { min-width: 10rem }
th { background: #f4f4f4 }
pre { background: #f4f4f4; padding: 0.8rem; overflow-x: auto; font-size: 0.85rem }
code { background: #f4f4f4 }
img { max-width: 100%; height: auto }
figure { margin: 1rem 0; max-width: 46rem }
figcaption { color: #555; font-size: 0.9rem }
"""


def literal(name: object) -> str:
    """A name from a file or a directory as a part of a text, in which nothing acts as Markdown or HTML.

    Markup becomes character references, which both languages show as the character: `[` becomes `&#91;`.
    """
    return MARKUP.sub(lambda found: f"&#{ord(found[0])};", texts.printable(name))


def code(name: object) -> str:
    """A name from a file as `code`; a backtick in it, which would end it, becomes an apostrophe."""
    return f"`{texts.printable(name).replace('`', chr(39))}`"


def to_html(blocks: Sequence[Block]) -> str:
    """One self-contained HTML document."""
    title = next(block[1] for block in blocks if block[0] == "title")
    body = "\n".join(_html(*block) for block in blocks)
    head = f'<meta charset="utf-8">\n<title>{_plain(title)}</title>\n<style>{STYLE}</style>'
    return f'<!doctype html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{body}\n</body>\n</html>\n'


def _html(kind, *content):
    match kind:
        case "title" | "heading" | "text":
            tag = {"title": "h1", "heading": "h2", "text": "p"}[kind]
            return f"<{tag}>{_inline(content[0])}</{tag}>"
        case "code":
            return f"<pre>{html.escape(content[0])}</pre>"
        case "table":
            head, *rows = content[0]
            lines = ["".join(f"<th>{_inline(cell)}</th>" for cell in head)]
            lines += ["".join(f"<td>{_inline(cell)}</td>" for cell in row) for row in rows]
            return "<table>\n" + "\n".join(f"<tr>{line}</tr>" for line in lines) + "\n</table>"
        case "picture":
            _, caption, data = content
            source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
            image = f'<img alt="{_plain(caption)}" src="{source}">'
            return f"<figure>{image}<figcaption>{_inline(caption)}</figcaption></figure>"


def _inline(text):
    text = re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(text))
    text = re.sub(r"\*\*(.*?)\*\*", r"<b>\1</b>", text)
    # An address with a scheme other than these, as javascript:, would have a colon.
    text = re.sub(r"\[([^\]]*)\]\(((?:https?:)?[^:)]*)\)", r'<a href="\2">\1</a>', text)
    return _references(text)


def _plain(text):
    return _references(html.escape(text))


def _references(text):
    """Escaped text with the character references of `literal` as characters, escaped where HTML needs it."""
    return re.sub(r"&amp;#(\d+);", lambda found: html.escape(chr(int(found[1]))), text)


def markdown_table(rows: Rows) -> str:
    head, *others = ([cell.replace("|", "\\|") for cell in row] for row in rows)
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *others])


def to_markdown(blocks: Sequence[Block], pictures: str) -> str:
    """A page as Markdown. `pictures` is the path, relative to the page, of a directory with a NAME.png per picture."""
    return "\n\n".join(_markdown(pictures, *block) for block in blocks) + "\n"


def _markdown(pictures, kind, *content):
    match kind:
        case "title" | "heading" | "text":
            return {"title": "# ", "heading": "## ", "text": ""}[kind] + content[0]
        case "code":
            return f"```sh\n{content[0]}\n```"
        case "table":
            return markdown_table(content[0])
        case "picture":
            name, caption, _ = content
            return f"![{caption}]({pictures}/{name}.png)"
