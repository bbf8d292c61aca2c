"""What a worker process tells the front of itself: its metrics, and its tree of tasks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from triosfu.net.http import Response
from triosfu.server.task_tree import look

if TYPE_CHECKING:
    from triosfu.metrics.page import MetricsPage
    from triosfu.net.http import Request
    from triosfu.server.task_tree import Watch

METRICS: Final = "/metrics"
QUEUES: Final = "/queues"
TASKS: Final = "/tasks"


class Inside:
    """Answers the front, and nobody else: it comes by a door of its own."""

    def __init__(self, watch: Watch, page: MetricsPage | None) -> None:
        self._watch = watch
        self._page = page

    async def respond(self, request: Request) -> Response:
        """Answer one request. Cancelled, it has changed nothing."""
        if request.path == TASKS:
            return Response(200, json.dumps(look(self._watch).to_json()).encode())
        if self._page is not None and request.path == METRICS:
            return await self._page.read()
        if self._page is not None and request.path == QUEUES:
            return await self._page.queues()
        return Response(404)
