"""`triosfu keys generate`: a new API key and its secret."""

from __future__ import annotations

import secrets
import string

import typer

keys = typer.Typer(name="keys", help="API keys.")

ALPHABET = string.ascii_letters + string.digits


@keys.callback()
def _keys() -> None:
    """API keys."""


@keys.command()
def generate() -> None:
    """Print a new key and its secret, as the section `keys` of a configuration, or a key file, holds them."""
    typer.echo(f"API{_random(12)}: {_random(43)}")  # 43 characters of 62 hold 256 bits


def _random(length: int) -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(length))
