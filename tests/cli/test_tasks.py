from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from typing import TYPE_CHECKING, Any

from rich.console import Console

from tests.support.command import COMMAND, started
from triosfu.cli import main
from triosfu.cli.tasks import render

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def view(name: str, bound: str, *children: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "room": "",
        "participant": "",
        "bound": bound,
        "waits_on": "sleep_forever",
        "where": "triosfu.rooms.room:Room.run",
        "line": 7,
        "since": 3.0,
        "deadline_in": 2.0 if bound == "deadline" else None,
        "reason": "the service" if bound == "declared" else "",
        "nurseries": [list(children)],
    }


def printed(tree: dict[str, Any], *, color: bool) -> str:
    console = Console(width=200, force_terminal=color, color_system="standard" if color else None, legacy_windows=False)
    with console.capture() as capture:
        console.print(render(tree))
    return capture.get()


def test_a_line_for_each_task_with_its_wait_and_its_bound() -> None:
    text = printed(view("room a", "children", view("b", "deadline"), view("c", "declared")), color=False)
    assert [line.strip(" │├└─") for line in text.splitlines()] == [
        "3 tasks, 0 without a bound",
        "room a  waits for sleep_forever",
        "b  sleep_forever at rooms.room:Room.run:7 for 3.0 s, 2.0 s left",
        "c  sleep_forever at rooms.room:Room.run:7 for 3.0 s, the service",
    ]


def test_a_wait_without_a_bound_is_red_and_no_other_is() -> None:
    lines = printed(view("fine", "deadline", view("stuck", "none")), color=True).splitlines()
    assert [("\x1b[1;31m" in line) for line in lines] == [True, False, True]
    assert "1 without a bound" in lines[0]
    assert "WITHOUT A BOUND" in lines[2]


def test_names_from_clients_do_not_get_at_the_terminal() -> None:
    text = printed(view("participant \x1b[2J[red]\n\x07", "deadline"), color=False)
    assert "participant \N{REPLACEMENT CHARACTER}[2J[red]" in text
    assert "\x1b" not in text
    assert "\x07" not in text


def test_both_outputs_of_a_running_server(tmp_path: Path) -> None:
    with started("--admin-socket", str(tmp_path / "a.sock"), runtime=tmp_path):
        ask = [*COMMAND, "tasks", "--socket", str(tmp_path / "a.sock")]
        told = subprocess.run(ask, capture_output=True, text=True, check=True, timeout=20)
        as_json = subprocess.run([*ask, "--json"], capture_output=True, text=True, check=True, timeout=20)
    assert " tasks, 0 without a bound" in told.stdout.splitlines()[0]
    assert "Reader.read_at_once" in told.stdout
    assert json.loads(as_json.stdout)["name"] == "<init>"


def test_no_server_is_one_line_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "none.sock"
    assert main(["tasks", "--socket", str(place)]) == 2
    assert capsys.readouterr().err == f"--socket: no server listens at {place}\n"
    assert main(["tasks", "--socket", str(place), "--watch", "--json"]) == 2


def test_watching_goes_on_until_the_server_ends(tmp_path: Path) -> None:
    place = str(tmp_path / "a.sock")
    with started("--admin-socket", place, runtime=tmp_path) as outside:
        ask = [*COMMAND, "tasks", "--watch", "--socket", place]
        screen, theirs = pty.openpty()
        with subprocess.Popen(ask, stdout=theirs, stderr=subprocess.PIPE, text=True) as watcher:
            seen = b""
            while b"Reader.read_at_once" not in seen:
                seen += os.read(screen, 65536)
            outside.process.send_signal(signal.SIGINT)
            assert outside.process.wait(timeout=10) == 0
            _, told = watcher.communicate(timeout=20)
            os.close(theirs)
            os.close(screen)
            assert watcher.returncode == 2
            assert told == f"--socket: no server listens at {place}\n"
