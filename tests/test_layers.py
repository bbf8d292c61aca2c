"""Imports point down only, and the cores know nothing of trio, sockets, clocks or global randomness."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "src" / "triosfu"

# Top first. A module may import from its own row and from rows below it.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("cli", "pytest_plugin", "__main__"),
    ("server", "metrics", "__init__"),
    ("whip",),
    ("api", "signalling", "webhooks", "egress", "ingress", "sip", "agents", "dashboard"),
    ("cluster",),
    ("rooms",),
    ("peer",),
    ("media",),
    ("net",),
    ("datachannel",),
    ("ice", "dtls", "srtp", "rtp", "sctp", "sdp", "turn"),
    ("stun",),
    ("errors", "config", "tokens", "logs", "histogram", "grid", "kernel"),
)
RANK = {name: rank for rank, row in enumerate(LAYERS) for name in row}
CORES = frozenset({"ice", "dtls", "srtp", "rtp", "sctp", "datachannel", "sdp", "turn", "stun", "media"})
FORBIDDEN_IN_CORES = frozenset({"trio", "socket", "time", "asyncio", "threading", "select"})
GLOBAL_RANDOM = frozenset({"random", "randint", "randbytes", "choice", "randrange", "getrandbits", "uniform"})


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def layer_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


def imported(path: Path) -> list[tuple[str, int]]:
    """Every absolute module name that `path` imports, with its line; relative imports are resolved."""
    package = ("triosfu", *path.relative_to(PACKAGE).parts[:-1])
    names: list[tuple[str, int]] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *([node.module] if node.module else [])))
            names += [(f"{module}.{alias.name}", node.lineno) for alias in node.names]
    return names


def test_every_module_has_a_layer() -> None:
    assert {layer_of(path) for path in modules()} <= RANK.keys()


def test_imports_point_down_only() -> None:
    upward = [
        f"{path.relative_to(PACKAGE)}:{line} imports {name}"
        for path in modules()
        for name, line in imported(path)
        if name.startswith("triosfu.")
        and RANK.get(name.split(".")[1], RANK["__init__"]) < RANK[layer_of(path)]
        and name.split(".")[1] != "__version__"
    ]
    assert upward == []


def test_cores_own_no_clock_socket_or_task() -> None:
    found = [
        f"{path.relative_to(PACKAGE)}:{line} imports {name}"
        for path in modules()
        if layer_of(path) in CORES
        for name, line in imported(path)
        if name.split(".")[0] in FORBIDDEN_IN_CORES
    ]
    assert found == []


def test_cores_draw_only_from_the_random_they_were_given() -> None:
    found = [
        f"{path.relative_to(PACKAGE)}:{node.lineno} draws from the global random"
        for path in modules()
        if layer_of(path) in CORES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "random"
        and node.attr in GLOBAL_RANDOM
    ]
    assert found == []
