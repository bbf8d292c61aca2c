from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import pytest
import trio

import triosfu
from triosfu.cli import main
from triosfu.config import DEVELOPMENT_KEY, DEVELOPMENT_SECRET, parse_keys
from triosfu.errors import ConfigError
from triosfu.tokens import Claims, SipGrant, VideoGrant, check_join, verify

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "a-secret-of-thirty-two-characters"


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONFIG", "KEYS", "REGION", "API_KEY", "API_SECRET"):
        monkeypatch.delenv(f"LIVEKIT_{name}", raising=False)
    for name in ("NODE_IP", "UDP_PORT"):
        monkeypatch.delenv(name, raising=False)


def said(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """What a command that succeeds prints."""
    assert main(argv) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line of a command that cannot be run."""
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err.rstrip("\n")


def claims_of(token: str, secret: str = DEVELOPMENT_SECRET, key: str = DEVELOPMENT_KEY) -> Claims:
    return verify(token.strip(), {key: secret}, now=time.time())


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "--version") == f"triosfu {triosfu.__version__}\n"
    assert "run" in said(capsys)
    assert "--dev" in said(capsys, "run", "--help")


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("run --nope", "--nope: there is no such option"),
        ("run --port seventy", "--port: "),
        ("run --port 70000", "--port: "),
        ("run --port", "--port: "),
        ("run --dev=yes", "--dev: "),
        ("run extra", "triosfu run: Got unexpected extra argument(s) (extra)"),
        ("fly", "triosfu: No such command 'fly'."),
        ("token", "triosfu token: Missing command."),
        ("keys fly", "triosfu keys: No such command 'fly'."),
        ("run", "keys: at least one key pair is needed: see `triosfu keys generate`, or use --dev"),
        ("run --config /nowhere/at-all", "config: cannot read /nowhere/at-all: No such file or directory"),
        ("run --config-body prot:1", "config: must be a mapping of keys to values"),
        ("run --dev --config-body {prot:1}", "prot:1: neither LiveKit nor triosfu knows this key"),
        ("run --dev --workers none", "workers: must be a number of processes, or auto"),
        ("run --dev --workers 0", "workers: must be 1 to 128, or auto"),
        ("run --dev --workers 3 --udp-port 1-2", "rtc.udp_port: 1 to 2 are too few for 3 workers"),
        ("run --dev --udp-port x", "rtc.udp_port: must be a port or a range of ports such as 7882-7890"),
        ("run --dev --node-ip x", "rtc.node_ip: 'x' does not appear to be an IPv4 or IPv6 address"),
        ("run --dev --bind x", "bind_addresses.0: 'x' does not appear to be an IPv4 or IPv6 address"),
        ("run --dev --log-level x", "logging.level: should be 'debug', 'info', 'warning' or 'error'"),
        ("run --keys x", "--keys: must be a mapping of keys to values"),
        ("run --key-file /nowhere/at-all", "key_file: cannot read /nowhere/at-all: No such file or directory"),
        ("token create --dev", "--room: is missing: without it or another grant the token allows nothing"),
        ("token create --dev --room r", "--identity: is missing: whoever joins a room has one"),
        ("token create --dev --admin", "--room: is missing: it is one room that --admin is for"),
        ("token create --room r -i a", "keys: at least one key pair is needed"),
        ("token create --room r -i a --api-key k", "--api-secret: is missing: a key and its secret go together"),
        ("token create --room r -i a --api-secret s", "--api-key: is missing: a key and its secret go together"),
        ("token create --dev --room r -i a --ttl 5", "--ttl: must be a duration with its unit"),
        ("token create --dev --room r -i a --ttl 5ms", "--ttl: must be at least 1s"),
        ("token create --dev --room r -i a --kind elf", "--kind: elf is not one of standard, ingress, egress"),
        ("token create --dev --room r -i a --attribute x", "--attribute: must be KEY=VALUE"),
        ("token create --dev --room r -i a --publish-source x", "--publish-source: x is not one of camera,"),
    ],
)
def test_a_mistake_is_one_line_that_starts_with_what_is_wrong(
    capsys: pytest.CaptureFixture[str], command: str, line: str
) -> None:
    assert refused(capsys, *command.split()).startswith(line)


def test_the_shortest_token_joins_a_room(capsys: pytest.CaptureFixture[str]) -> None:
    claims = claims_of(said(capsys, "token", "create", "--dev", "--room", "demo", "--identity", "alice"))
    assert check_join(claims) == VideoGrant(room_join=True, room="demo")
    assert claims.identity == "alice"
    assert claims.expires_at - claims.not_before == 6 * 3600


def test_every_grant_has_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    options = """
        token create --dev --room demo --identity alice --name Alice --ttl 90m --metadata {} --attribute a=b=c
        --attribute d= --kind agent --admin --create --list --record --ingress --no-publish --publish-source camera
        --publish-source Microphone --publish-data --no-subscribe --update-metadata --hidden --recorder --agent
    """
    claims = claims_of(said(capsys, *options.split()))
    assert claims.video == VideoGrant(
        room="demo",
        room_join=True,
        room_admin=True,
        room_create=True,
        room_list=True,
        room_record=True,
        ingress_admin=True,
        can_publish=False,
        can_publish_sources=("camera", "microphone"),
        can_publish_data=True,
        can_subscribe=False,
        can_update_own_metadata=True,
        hidden=True,
        recorder=True,
        agent=True,
    )
    assert (claims.name, claims.metadata, claims.kind) == ("Alice", "{}", "agent")
    assert claims.attributes == {"a": "b=c", "d": ""}
    assert claims.expires_at - claims.not_before == 5400
    assert claims.sip is None or claims.sip == SipGrant()


def test_a_token_without_a_room_can_be_for_the_server_api(capsys: pytest.CaptureFixture[str]) -> None:
    claims = claims_of(said(capsys, "token", "create", "--dev", "--create", "--list"))
    assert claims.video == VideoGrant(room_create=True, room_list=True)


def test_the_key_comes_from_where_it_is_given(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    create = ("token", "create", "--room", "r", "--identity", "a")
    pair = f"APIx: {SECRET}\nAPIy: another-secret-of-thirty-two-chars"
    file = tmp_path / "keys"
    file.write_text(pair)
    file.chmod(0o600)
    config = tmp_path / "config"
    config.write_text(f"key_file: {file}")
    ways = [
        ("--keys", pair),
        ("--key-file", str(file)),
        ("--config", str(config)),
        ("--config-body", f"keys: {{APIx: {SECRET}}}"),
        ("--api-key", "APIx", "--api-secret", SECRET),
    ]
    for way in ways:
        assert claims_of(said(capsys, *create, *way), SECRET, "APIx").issuer == "APIx"
    for environment in (
        {"LIVEKIT_KEYS": f"APIx: {SECRET}"},
        {"LIVEKIT_CONFIG": f"keys: {{APIx: {SECRET}}}"},
        {"LIVEKIT_API_KEY": "APIx", "LIVEKIT_API_SECRET": SECRET},
    ):
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            assert claims_of(said(capsys, *create), SECRET, "APIx").issuer == "APIx"


def test_generated_keys_are_long_random_and_ready_for_a_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (said(capsys, "keys", "generate") for _ in range(2))
    assert first != second
    assert re.fullmatch(r"API[A-Za-z0-9]{12}: [A-Za-z0-9]{43}\n", first)
    [(key, secret)] = parse_keys(first).items()
    assert (
        claims_of(
            said(capsys, "token", "create", "--room", "r", "--identity", "a", "--keys", first), secret, key
        ).identity
        == "a"
    )


def test_an_error_that_a_nursery_has_wrapped_is_still_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[Exception] = [ExceptionGroup("inner", [ConfigError("port: is\ntaken")])]

    def fail(*_: object, **__: object) -> None:
        raise ExceptionGroup("outer", errors)

    monkeypatch.setattr(trio, "run", fail)
    assert refused(capsys, "run", "--dev") == "port: is taken"
    errors.append(ValueError("a bug"))
    with pytest.raises(ExceptionGroup):
        main(["run", "--dev"])


def test_an_interrupt_is_not_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(trio, "run", interrupt)
    assert main(["run", "--dev"]) == 130
