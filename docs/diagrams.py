"""Draws the state diagrams of the pages from the transition tables of the code.

python -m docs.diagrams           renew the pages
python -m docs.diagrams --check   name the stale ones, and end with 1 if there are any
"""

from __future__ import annotations

import re
import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from triosfu.ice import state as ice
from triosfu.sctp import state as sctp

if TYPE_CHECKING:
    from collections.abc import Mapping

State = TypeVar("State", bound=Enum)
On = TypeVar("On", bound=Enum)

FOLDER = Path(__file__).parent
COMMAND = "python -m docs.diagrams"
BEGIN = f"<!-- drawn by `{COMMAND}` from {{source}} -->\n"
END = "<!-- end of the drawing -->"


def diagram(table: Mapping[tuple[State, On], State], begin: State) -> str:
    """A Mermaid state diagram; an event that leads to one state from all the others is drawn once."""
    states = dict.fromkeys([begin, *(state for state, _ in table), *table.values()])
    events = dict.fromkeys(on for _, on in table)
    always = {
        on: end
        for on in events
        for end in states
        if all(table.get((state, on)) is end for state in states if state is not end)
    }
    arrows: dict[tuple[State, State], list[str]] = {}
    for (state, on), after in table.items():
        if on not in always:
            arrows.setdefault((state, after), []).append(on.name)
    final = [state for state in states if not any(state is source for source, _ in arrows)]
    return "\n".join(
        [
            "stateDiagram-v2",
            f"    [*] --> {begin.name}",
            *(f"    {state.name} --> {after.name}: {', '.join(names)}" for (state, after), names in arrows.items()),
            '    state "any other state" as OTHER',
            *(f"    OTHER --> {end.name}: {on.name}" for on, end in always.items()),
            *(f"    {state.name} --> [*]" for state in final),
            "",
        ]
    )


def drawings() -> dict[str, tuple[str, str]]:
    """What is drawn on each page: the file of the table, and the drawing."""
    return {
        "sctp.md": ("src/triosfu/sctp/state.py", diagram(sctp.TRANSITIONS, sctp.State.CLOSED)),
        "architecture.md": ("src/triosfu/ice/state.py", diagram(ice.TRANSITIONS, ice.IceState.NEW)),
    }


def renewed(page: str, source: str, drawing: str) -> str:
    """The text of a page with `drawing` in the place that is marked for it."""
    begin = BEGIN.format(source=source)
    place = re.compile(re.escape(begin) + ".*?" + re.escape(END), re.DOTALL)
    if not place.search(page):
        raise SystemExit(f"there is no place for what is drawn from {source}")
    return place.sub(lambda _: f"{begin}```mermaid\n{drawing}```\n{END}", page)


def main(arguments: list[str]) -> int:
    """Renew the pages, or check them."""
    stale = 0
    for name, (source, drawing) in drawings().items():
        path = FOLDER / name
        text = path.read_text(encoding="utf-8")
        now = renewed(text, source, drawing)
        if now == text:
            continue
        stale += 1
        if "--check" in arguments:
            print(f"docs/{name} is stale: {COMMAND}", file=sys.stderr)
        else:
            path.write_text(now, encoding="utf-8")
            print(f"renewed docs/{name}")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
