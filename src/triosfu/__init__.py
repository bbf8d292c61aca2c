"""triosfu: a WebRTC SFU that LiveKit clients use unchanged and that cannot wedge.

async with triosfu.serve(triosfu.load_config(development=True)) as server:
    print(server.url, server.create_token(identity="alice", room="demo"))
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from triosfu.config import Config, load_config
    from triosfu.server import Server, serve

__version__ = "0.1.0"
__all__ = ["Config", "Server", "__version__", "load_config", "serve"]

_HOMES = {
    "Config": "triosfu.config",
    "Server": "triosfu.server",
    "load_config": "triosfu.config",
    "serve": "triosfu.server",
}


def __getattr__(name: str) -> object:
    """Import the public names when they are asked for: the sans-IO cores are used without trio, too."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415  only where it is needed

    return getattr(import_module(_HOMES[name]), name)
