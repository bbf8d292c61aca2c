"""The server: composition of everything below, and the API for those who embed it."""

from triosfu.server.app import GRACE, Server, serve
from triosfu.server.threaded import serve_in_thread
from triosfu.server.until_signalled import run_until_signalled

__all__ = ["GRACE", "Server", "run_until_signalled", "serve", "serve_in_thread"]
