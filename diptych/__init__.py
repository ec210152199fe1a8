"""Diptych finds pictures by words and words by pictures.

The client is here: ``from diptych import Client``. It is imported when it is first asked for, so that the command line
starts without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shared.client import AsyncClient, Client, DiptychError, Term, Upload

__all__ = ["AsyncClient", "Client", "DiptychError", "Term", "Upload"]


def __getattr__(name: str) -> object:
    if name in __all__:
        from shared import client

        return getattr(client, name)
    raise AttributeError(f"module 'diptych' has no attribute {name!r}")
