"""What a page says of the repository, taken out of its text: quoted code, paths, links, tables."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PACKAGE = ROOT / "src" / "triosfu"
QUOTE = re.compile(r"^```python\n# (?P<path>[\w/.]+/\w+\.py)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)")
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
PATH = re.compile(r"(?:src|tests|docs|fuzz|bench)/[\w/.-]*")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def quotes(page: str) -> Iterator[tuple[str, str]]:
    """Each quoted piece of code, with the path of the file that it is from."""
    return ((match["path"], match["code"]) for match in QUOTE.finditer(page))


def without_blocks(page: str) -> str:
    return BLOCK.sub("", page)


def paths(page: str) -> set[str]:
    """Everything in the text that looks like a path of this repository."""
    return {code for code in CODE.findall(without_blocks(page)) if PATH.fullmatch(code)}


def links(page: str) -> Iterator[tuple[str, str]]:
    """Target and fragment of every link that stays in this repository."""
    return ((target, at) for target, at in LINK.findall(without_blocks(page)) if "://" not in target)


def anchors(page: str) -> set[str]:
    """The fragments by which the headings of a page can be linked, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", without_blocks(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def table_under(page: str, heading: str) -> list[list[str]]:
    """The rows of the first table under `heading`, without its head."""
    rows = re.findall(r"^\|.*\|$", page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0], re.MULTILINE)
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


@cache
def tree(module: Path) -> ast.Module:
    return ast.parse(module.read_text(encoding="utf-8"))


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def public_async_calls() -> dict[tuple[str, str], str]:
    """Every public async function of the package, by module and name, with its docstring."""
    found: dict[tuple[str, str], str] = {}

    def look(body: list[ast.stmt], module: str, outer: str) -> None:
        for node in body:
            if not isinstance(node, ast.ClassDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
                continue
            if isinstance(node, ast.ClassDef):
                look(node.body, module, f"{outer}{node.name}.")
            else:
                found[module, outer + node.name] = ast.get_docstring(node) or ""

    for path in modules():
        look(tree(path).body, path.relative_to(PACKAGE).as_posix(), "")
    return found


def defined(module: Path) -> set[str]:
    """The functions, classes and methods of a module: `name` and `Class.name`."""
    found: set[str] = set()
    for node in tree(module).body:
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{part.name}" for part in node.body if isinstance(part, FUNCTIONS)}
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
    return found
