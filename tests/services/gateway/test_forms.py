"""The short way to read a form against the parser that reads all of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

import httpx
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers
from starlette.formparsers import MultiPartParser

from services.gateway.forms import simple_fields

NAMES = st.text("abcdefgkT_09", min_size=1, max_size=9)
PIECES = st.sampled_from(
    [
        b"\r\n",
        b"\n",
        b"\r\n\r\n",
        b"--",
        b"--xXx",
        b"\r\n--xXx\r\n",
        b"\r\n--xXx--\r\n",
        b'Content-Disposition: form-data; name="text"',
        b'content-disposition: form-data; name="k"',
        b"Content-Disposition: form-data; name=text",
        b'; filename="a"',
        b"Content-Type: text/plain; charset=utf-8\r\n",
        b"Content-Type: text/plain; charset=latin-1\r\n",
        b"Content-Transfer-Encoding: base64\r\n",
        b"a dog",
        "à l'été".encode(),
        b"\xff\xfe",
        b'"',
        b"\0",
    ]
)


async def by_the_parser(body: bytes, boundary: str) -> Sequence[tuple[str, object]]:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    headers = Headers({"Content-Type": f"multipart/form-data; boundary={boundary}"})
    return (await MultiPartParser(headers, stream()).parse()).multi_items()


@given(st.lists(st.tuples(NAMES, st.text(max_size=50)), min_size=1, max_size=8))
async def test_what_clients_send_is_read(fields: list[tuple[str, str]]) -> None:
    request = httpx.Request("POST", "http://x", files=[(name, (None, value)) for name, value in fields])
    boundary = request.headers["Content-Type"].partition("boundary=")[2]
    assert simple_fields(request.read(), boundary.encode()) == fields == await by_the_parser(request.read(), boundary)


@given(st.lists(PIECES, max_size=9))
async def test_whatever_is_read_the_parser_reads_alike(pieces: list[bytes]) -> None:
    for body in (
        b"".join(pieces),
        b"--xXx\r\n" + b"".join(pieces) + b"\r\n--xXx--\r\n",
        b'--xXx\r\nContent-Disposition: form-data; name="text"\r\n\r\n' + b"".join(pieces) + b"\r\n--xXx--\r\n",
    ):
        fields = simple_fields(body, b"xXx")
        assert fields is None or fields == await by_the_parser(body, "xXx")


def test_files_and_other_character_sets_are_left_to_the_parser() -> None:
    for head in (
        b'Content-Disposition: form-data; name="image"; filename="a.jpg"',
        b'Content-Type: text/plain; charset=latin-1\r\nContent-Disposition: form-data; name="text"',
    ):
        assert simple_fields(b"--xXx\r\n" + head + b"\r\n\r\na dog\r\n--xXx--\r\n", b"xXx") is None
    nameless = b'--xXx\r\nContent-Disposition: form-data; name="text"\r\n\r\n\xff\r\n--xXx--\r\n'
    assert simple_fields(nameless, b"xXx") is None
