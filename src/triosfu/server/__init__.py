"""The server: composition of everything below, and the API for those who embed it."""

from triosfu.server.app import GRACE, Server, serve
from triosfu.server.front import Front, serve_front
from triosfu.server.threaded import serve_in_thread
from triosfu.server.until_signalled import run_until_signalled

__all__ = ["GRACE", "Front", "Server", "run_until_signalled", "serve", "serve_front", "serve_in_thread"]
