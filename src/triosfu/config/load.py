"""From YAML text and the command line's overrides to a checked `Config`."""

from __future__ import annotations

import stat
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from triosfu.config.model import Config
from triosfu.config.refused import refuse
from triosfu.config.values import parse_port_range
from triosfu.config.workers import of_worker
from triosfu.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

DEVELOPMENT_KEY: Final = "devkey"
DEVELOPMENT_SECRET: Final = "secret"  # noqa: S105  LiveKit's documented pair, for loopback
LOOPBACK: Final = ("127.0.0.1", "::1")
EVERYWHERE: Final = ("0.0.0.0", "::")  # noqa: S104
_ADAPTER: Final = TypeAdapter(Config)


def load_config(text: str = "", *, overrides: Mapping[str, Any] | None = None, development: bool = False) -> Config:
    """The configuration that `text` describes in LiveKit's YAML, with `overrides` (nested like it) on top.

    In development mode, asked for here or in the text, what is not configured is fit for one's own machine: the key
    pair devkey/secret, listening and media on loopback.

    Raises:
        ConfigError: Its message is one line that starts with the key and holds no value of `keys`.
    """
    try:
        raw = _parse(text, "config")
        _merge(raw, overrides or {})
        return _settle(raw, development=development)
    except ConfigError as error:
        # A key may hold anything, line breaks too.
        raise ConfigError(" ".join(str(error).split())) from None


def read_config_file(path: str) -> str:
    """The text of a configuration file; ConfigError if it cannot be read."""
    return _read(Path(path), "config")


def parse_keys(text: str, key: str = "keys") -> dict[str, str]:
    """API keys and their secrets from lines of `key: secret`; a ConfigError starts with `key`."""
    if "\n" not in text and text.count(":") == 1 and ": " not in text:
        text = text.replace(":", ": ")
    pairs = _parse(text, key)
    if not all(isinstance(name, str) and isinstance(secret, str) for name, secret in pairs.items()):
        raise ConfigError(f"{key}: must be lines of `key: secret`; put numbers in quotes")
    return pairs


def _settle(raw: dict[str, Any], *, development: bool) -> Config:
    _drop_empty(raw, Config)
    development = development or raw.get("development") is True
    raw["development"] = raw.get("development", False) or development
    refuse(raw)
    _read_key_file(raw)
    _settle_rtc(raw)
    _settle_addresses(raw, development=development)
    _settle_prometheus(raw)
    if development:
        raw["keys"] = raw.get("keys") or {DEVELOPMENT_KEY: DEVELOPMENT_SECRET}
    try:
        config = _ADAPTER.validate_python(raw)
    except ValidationError as error:
        raise ConfigError(_first(error)) from None
    _check(config)
    return config


class _Loader(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error, as in LiveKit's."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002
        seen: set[object] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                continue  # SafeLoader refuses it
            if key_node.value in seen:
                raise yaml.MarkedYAMLError(None, None, f"{key_node.value} stands twice", key_node.start_mark)
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def _parse(text: str, key: str) -> dict[str, Any]:
    try:
        value = yaml.load(text, Loader=_Loader)  # noqa: S506  a SafeLoader
    except yaml.MarkedYAMLError as error:
        # Without the snippet that PyYAML would show: it may hold a secret.
        where = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{key}: not valid YAML{where}: {error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise ConfigError(f"{key}: not valid YAML") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{key}: must be a mapping of keys to values")
    return value


def _read(path: Path, key: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{key}: cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{key}: {path} is not UTF-8 text") from None


def _merge(raw: dict[str, Any], overrides: Mapping[str, Any]) -> None:
    for name, value in overrides.items():
        if isinstance(value, dict) and isinstance(raw.get(name), dict) and name != "keys":
            _merge(raw[name], value)
        else:
            raw[name] = dict(value) if isinstance(value, dict) else value


def _drop_empty(section: dict[str, Any], model: type) -> None:
    """Take out known keys without a value, such as a section whose lines are all commented out."""
    types = get_type_hints(model)
    for field in fields(model):
        if section.get(field.name, "") is None:
            del section[field.name]
        elif is_dataclass(types[field.name]) and isinstance(section.get(field.name), dict):
            _drop_empty(section[field.name], types[field.name])


def _read_key_file(raw: dict[str, Any]) -> None:
    name = raw.pop("key_file", None)
    if not name:
        return
    path = Path(str(name))
    text = _read(path, "key_file")
    if stat.S_IMODE(path.stat().st_mode) & stat.S_IRWXO:
        raise ConfigError(f"key_file: others may use {path}: take their permissions away (chmod o= {path})")
    raw["keys"] = parse_keys(text, "key_file")


def _settle_rtc(raw: dict[str, Any]) -> None:
    """One range of UDP ports, and one way to name the external address."""
    rtc = raw.setdefault("rtc", {})
    if not isinstance(rtc, dict):
        return
    first, last = rtc.pop("port_range_start", None), rtc.pop("port_range_end", None)
    if (first or last) and not rtc.get("udp_port"):
        if not first or not last:
            raise ConfigError(f"rtc.port_range_{'end' if first else 'start'}: is missing: a range has two ends")
        try:
            rtc["udp_port"] = parse_port_range({"start": first, "end": last})
        except ValueError as error:
            raise ConfigError(f"rtc.port_range_start: {error}") from None
    if rtc.pop("use_external_ip", False) and not rtc.get("node_ip"):
        raise ConfigError("rtc.use_external_ip: no STUN server is asked for our address: set rtc.node_ip to it")


def _settle_addresses(raw: dict[str, Any], *, development: bool) -> None:
    """Write out what the short forms of bind_addresses stand for."""
    given = raw.pop("bind_addresses", None) or ["localhost" if development else ""]
    if not isinstance(given, list | tuple):
        raise ConfigError("bind_addresses: must be a list of IP addresses")
    addresses: list[str] = []
    for name in given:
        if not isinstance(name, str):
            raise ConfigError("bind_addresses: must be a list of IP addresses")
        addresses += EVERYWHERE if name == "" else LOOPBACK if name == "localhost" else (name,)
    raw["bind_addresses"] = list(dict.fromkeys(addresses))
    if isinstance(raw["rtc"], dict) and (development or set(addresses) <= set(LOOPBACK)):
        raw["rtc"].setdefault("enable_loopback_candidate", True)


def _settle_prometheus(raw: dict[str, Any]) -> None:
    """LiveKit has replaced prometheus_port by prometheus.port; where both are given, the old one wins there."""
    port = raw.pop("prometheus_port", None)
    if not port:
        return
    if isinstance(port, bool) or not isinstance(port, int) or not 0 < port <= 65535:
        raise ConfigError("prometheus_port: must be a port")
    section = raw.setdefault("prometheus", {})
    if isinstance(section, dict):
        section["port"] = port


def _check_tcp(config: Config) -> None:
    tcp, udp = config.rtc.tcp_port, config.rtc.udp_port
    if config.rtc.force_tcp and not tcp:
        raise ConfigError("rtc.force_tcp: needs rtc.tcp_port")
    if tcp and udp.first <= tcp <= udp.last:
        raise ConfigError("rtc.tcp_port: must not be one of rtc.udp_port")  # ICE tells protocols apart by their ports
    if tcp and tcp in {config.port, config.prometheus.port}:
        raise ConfigError("rtc.tcp_port: must not be the port of signalling, or of metrics")


def _check(config: Config) -> None:
    """What no single field can know."""
    if not config.keys:
        raise ConfigError("keys: at least one key pair is needed: see `triosfu keys generate`, or use --dev")
    for name, secret in config.keys.items():
        if not name or not secret:
            raise ConfigError(f"keys.{name}: neither a key nor its secret may be empty")
        if secret.startswith(("-----BEGIN", "ssh-", "ecdsa-")):  # PyJWT refuses to sign with these
            raise ConfigError(f"keys.{name}: must be a shared secret, not a key pair's file")
    if config.webhook.urls and config.webhook.api_key not in config.keys:
        known = "is not one of keys" if config.webhook.api_key else "is missing: say which of keys signs webhooks"
        raise ConfigError(f"webhook.api_key: {known}")
    if bool(config.prometheus.username) is not bool(config.prometheus.password):
        raise ConfigError("prometheus.username: must be set together with prometheus.password, or neither")
    if config.prometheus.port and config.prometheus.port == config.port:
        raise ConfigError("prometheus.port: must not be the port of signalling")
    _check_tcp(config)
    for index in range(config.workers if config.workers > 1 else 0):
        of_worker(config, index)
    delay = config.room.playout_delay
    if delay.max and delay.min > delay.max:
        raise ConfigError(f"room.playout_delay.min: {delay.min} is more than max, {delay.max}")
    for name, preset in config.room.room_configurations.items():
        key, most = f"room.room_configurations.{name}", preset.max_playout_delay
        if not name:
            raise ConfigError(f"{key}: a configuration needs a name")
        if most and preset.min_playout_delay > most:
            raise ConfigError(f"{key}.min_playout_delay: {preset.min_playout_delay} is more than max, {most}")
        if config.limit.max_metadata_size and len(preset.metadata.encode()) > config.limit.max_metadata_size:
            raise ConfigError(f"{key}.metadata: is longer than limit.max_metadata_size")


def _first(error: ValidationError) -> str:
    """The first mistake as one line, without the value, which may be a secret."""
    mistake = error.errors(include_url=False, include_input=False)[0]
    key = ".".join(str(part) for part in mistake["loc"]) or "config"
    if mistake["type"] == "unexpected_keyword_argument":
        return f"{key}: neither LiveKit nor triosfu knows this key"
    if mistake["type"] == "missing":
        return f"{key}: is missing"
    text = mistake["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{key}: {' '.join(text.split())}"
