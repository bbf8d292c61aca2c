"""The properties by number: what each says, which tests show it, and which mutants show that these can fail.

A test says by its name which properties it is of: `test_p7_...`, `TestP2P12Channels`.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

FOLDER = Path(__file__).parent

PROPERTIES = {
    1: "A description is applied in no time at all, whatever the network does",
    2: "A channel that is being opened is open or failed within ten seconds",
    3: "Closing a connection wakes every writer that waits on it, at once",
    4: "Whatever else ends an association wakes them just as much",
    5: "Nothing waits longer than D_abort for a peer that has fallen silent",
    6: "A peer that is heard now and then is never given up",
    7: "No writer is parked on a channel that has room",
    8: "What happens on one channel holds up no other",
    9: "A send that is cancelled was never called, or has sent all of its message",
    10: "Of a connection that was closed nothing is left",
    11: "When the peer starts anew, every channel ends, and no old byte gets into the new association",
    12: "Channels and associations end once, with a reason, and say nothing after it",
    13: "Close works in every state, within D_flush, as often as it is called",
    14: "Where the path works, the peer learns of the end within a round trip",
    15: "What is reliable arrives once, whole and in order; what is not never holds up the rest",
    16: "Two sides that connect at the same time get one association",
    17: "No datagram of any content raises, grows memory or is answered by more than one",
    18: "A control chunk that cannot be is not applied in part, and costs no more than its size",
    19: "After a timer has run the next lies ahead; whoever waits for something has one",
    20: "No more is under way than the congestion and the receiver's window allow",
    21: "A reader that does not read, and a peer that ignores that, hold a bounded memory",
    22: "DTLS is neither heard nor spoken with an address that ICE has not validated",
    23: "A connection in a black hole has failed within D_consent",
    24: "Closing waits for no queue, however full it is",
}

_FUNCTION = re.compile(r"test_((?:p\d+_)+)")
_CLASS = re.compile(r"Test((?:P\d+)+)")


def numbers(name: str) -> tuple[int, ...]:
    """The properties that a test function or class is named after; none for anything else."""
    found = _FUNCTION.match(name) or _CLASS.match(name)
    return tuple(int(number) for number in re.findall(r"\d+", found[1])) if found else ()


def by_number(folder: Path) -> dict[int, list[str]]:
    """The tests of each property, as "module::name", read from the sources."""
    found: dict[int, list[str]] = {}
    for path in sorted(folder.glob("test_*.py")):
        for node in ast.parse(path.read_text()).body:
            match node:
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                    pass
                case ast.Assign(targets=[ast.Name(id=name)]):
                    pass
                case _:
                    continue
            for number in numbers(name):
                found.setdefault(number, []).append(f"{path.stem}::{name}")
    return dict(sorted(found.items()))
