"""docs/workers.md has the numbers of the code."""

from __future__ import annotations

import pytest

from tests.docs.pages import read
from triosfu.cluster import control, placement, supervisor
from triosfu.config.workers import LONGEST_NAME
from triosfu.metrics import front as metrics
from triosfu.server import front

PAGE = " ".join(read("docs/workers.md").split())


@pytest.mark.parametrize(
    "said",
    [
        f"those that do more than {placement.FACTOR} times what the least busy one does",
        f"less than {placement.ROOM} of a core each",
        f"again after {supervisor.FIRST_PAUSE} s, doubled with each death up to {supervisor.LONGEST_PAUSE:.0f} s",
        f"{control.MOST_WAITING:,} messages at most",
        f"After {front.TAKEN:.0f} s the client gets 503",
        f"it does not start | {supervisor.START:.0f} s",
        f"{front.ANSWER:.0f} s; then ListRooms is `unavailable`",
        f"have at most {LONGEST_NAME} characters",
    ],
)
def test_a_number_on_the_page_is_that_of_the_code(said: str) -> None:
    assert said in PAGE


def test_so_are_those_that_are_words() -> None:
    assert (supervisor.PING, supervisor.MISSED, supervisor.HEALTHY, supervisor.MARGIN) == (1, 5, 60, 1)
    for words in ("a ping each second", "when five are unanswered", "after a minute of life", "the grace and a second"):
        assert words in PAGE
    assert front.ANSWER == metrics.ANSWER
