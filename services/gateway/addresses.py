"""Where replicas are: several URLs, and every address of a name that has several."""

from __future__ import annotations

import asyncio
import re
import socket
from dataclasses import dataclass

import aiohttp
from yarl import URL

from shared.telemetry import log


@dataclass(frozen=True)
class Address:
    """``url`` is what to connect to; ``host``, where it was looked up, is what to say in the header of that name."""

    url: str
    host: str | None = None


def split(urls: str) -> list[str]:
    """The URLs in a text that has them separated by commas or blanks, each once."""
    return list(dict.fromkeys(url.rstrip("/") for url in re.split(r"[,\s]+", urls) if url))


async def look_up(url: str) -> list[Address]:
    """One for each address of the URL's name, as a headless service or a scaled container has them.

    A name with a single address stays a name, and so does one of ``https``, for a certificate is for the name. Of a
    name with addresses of both families only those of one count: they are the same machines twice. Raises OSError when
    the name cannot be looked up.
    """
    try:
        parsed = URL(url)
        host, port = parsed.host, parsed.port
    except ValueError:
        return [Address(url)]  # asking it says what is wrong
    if host is None or parsed.scheme != "http" or aiohttp.helpers.is_ip_address(host):
        return [Address(url)]
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for family in (socket.AF_INET, socket.AF_INET6):
        addresses = sorted({str(where[0]) for its, *_, where in found if its == family})
        if len(addresses) > 1:
            return [Address(str(parsed.with_host(one)), parsed.authority.rpartition("@")[2]) for one in addresses]
    return [Address(url)]


async def look_all_up(urls: list[str], known: dict[str, list[Address]]) -> dict[str, list[Address]]:
    """The addresses of each URL; what was ``known`` of one whose name cannot be looked up just now."""

    async def one(url: str) -> list[Address]:
        try:
            return await look_up(url)
        except OSError as error:
            log.debug("name not looked up", url=url, reason=str(error))
            return known.get(url) or [Address(url)]

    return dict(zip(urls, await asyncio.gather(*map(one, urls)), strict=True))
