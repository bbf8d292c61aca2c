"""Options that several commands share, and the configuration that they describe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from triosfu.config import load_config, parse_keys, read_config_file

if TYPE_CHECKING:
    from triosfu.config import Config

Development = Annotated[
    bool, typer.Option("--dev", help="Development mode: key devkey, secret secret, loopback, the demo page.")
]
ConfigFile = Annotated[
    str | None, typer.Option("--config", metavar="FILE", help="A configuration file with LiveKit's YAML keys.")
]
ConfigBody = Annotated[
    str | None,
    typer.Option("--config-body", envvar="LIVEKIT_CONFIG", metavar="YAML", help="The configuration itself."),
]
Keys = Annotated[
    str | None, typer.Option(envvar="LIVEKIT_KEYS", metavar="KEY: SECRET", help="API keys and secrets, one a line.")
]
KeyFile = Annotated[
    str | None, typer.Option(metavar="FILE", help="A file of API keys and secrets, which others must not read.")
]


def configure(
    config: str | None,
    config_body: str | None,
    *,
    keys: str | None,
    key_file: str | None,
    development: bool,
    overrides: dict[str, Any] | None = None,
) -> Config:
    """The configuration that the options describe; what stands on the command line wins over the file.

    Raises:
        ConfigError: Its message starts with the key or the option.
    """
    text = config_body or (read_config_file(config) if config else "")
    changes = dict(overrides or {})
    if keys:
        changes |= {"keys": parse_keys(keys, "--keys"), "key_file": None}
    elif key_file:
        changes["key_file"] = key_file
    return load_config(text, overrides=changes, development=development)
