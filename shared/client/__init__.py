"""The public Python client of a Diptych gateway, blocking and asynchronous.

::

    with Client("http://127.0.0.1:8000") as diptych:
        for found in diptych.text_to_image("a dog on the beach", k=3).results:
            print(found.score, found.image_name)
        snowy = diptych.search(Term(id="5f2c0a9be1d34c77"), Term(text="snow", weight=0.5))

Requests are made and answers read in :mod:`shared.client.requests`, for both; the two only send them.
"""

from shared.client.asynchronous import AsyncClient
from shared.client.blocking import Client
from shared.client.bulk import Upload
from shared.client.calls import DiptychError, key_header
from shared.schemas_v1 import Term

__all__ = ["AsyncClient", "Client", "DiptychError", "Term", "Upload", "key_header"]
