"""The item store in Milvus: one collection that holds, per item, what :mod:`shared.collections.items` has in SQLite.

Only ids of letters, digits, dots, dashes and underscores are ever part of an expression; the local Milvus Lite takes no
templates. Everything is read with the consistency ``Strong``: what was acknowledged before is seen.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from shared.artifacts import ArtifactError
from shared.artifacts.manifest import MilvusEngine
from shared.collections import items
from shared.collections.items import Float32, Item
from shared.collections.milvus_filters import FACT_LENGTH, facts, numbers
from shared.settings import MilvusSettings
from shared.tokens import TokenFeatures

TIMEOUT_SECONDS = 60.0
MOST_RESULTS = 16_384  # of a query, by Milvus
_LONGEST_TEXT, _LONGEST_ID, _MOST_FACTS = 65_535, 256, 4096
_ID = re.compile(rf"[A-Za-z0-9._-]{{1,{_LONGEST_ID}}}")
_LETTERS = sorted("-._0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
_AT_ONCE = 500
_BUILD: dict[str, dict[str, int]] = {"HNSW": {"M": 32, "efConstruction": 200}}
STORED = ["id", "number", "vector", "metadata", "said", "tokens"]


@dataclass(frozen=True)
class Stored:
    """An item in its place: ``number`` orders a collection, and ``said`` is what was said of its photo."""

    item: Item
    number: int
    said: dict[str, Any]
    tags: Sequence[str] = ()

    @property
    def photo(self) -> str:
        return str(self.item.metadata.get("image_id", self.item.id))


class Milvus:
    """A connection. Raises :class:`ArtifactError` when there is nobody, or the token is not good."""

    def __init__(self, engine: MilvusEngine, access: MilvusSettings) -> None:
        try:
            from pymilvus import MilvusClient
        except ModuleNotFoundError as error:
            raise ArtifactError("the index is in Milvus: install its client, pip install 'diptych[milvus]'") from error
        self.uri = access.milvus_uri or engine.uri
        self._token = access.milvus_token.get_secret_value() if access.milvus_token is not None else ""
        with self.asked("be reached"):
            self.client = MilvusClient(self.uri, token=self._token, timeout=TIMEOUT_SECONDS)

    @contextmanager
    def asked(self, what: str) -> Iterator[None]:
        """Raises :class:`ArtifactError` for whatever Milvus, or the way there, does not do."""
        from pymilvus.exceptions import MilvusException

        try:
            yield
        except MilvusException as error:
            said = str(error.message or error)
            if self._token:
                said = said.replace(self._token, "(token)")
            raise ArtifactError(f"Milvus at {_shown(self.uri)} cannot {what}: {said}") from error


class MilvusItems:
    """One collection. What fails is an :class:`ArtifactError`."""

    def __init__(self, milvus: Milvus, engine: MilvusEngine, collection: str, dim: int, token_dim: int) -> None:
        self.name = f"{engine.prefix}_{collection}"
        self._milvus = milvus
        self._index_type = engine.index_type
        self._dim = dim
        self._token_dim = token_dim
        self._client: Any = milvus.client

    def exists(self) -> bool:
        with self._milvus.asked(f"look for {self.name}"):
            return bool(self._client.has_collection(self.name, timeout=TIMEOUT_SECONDS))

    def create(self) -> None:
        from pymilvus import DataType, MilvusClient

        schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=_LONGEST_ID)
        schema.add_field("photo", DataType.VARCHAR, max_length=_LONGEST_ID)
        schema.add_field("number", DataType.INT64)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=self._dim)
        for text in ("metadata", "said", "tokens"):
            schema.add_field(text, DataType.VARCHAR, max_length=_LONGEST_TEXT)
        words: dict[str, Any] = {"element_type": DataType.VARCHAR, "max_capacity": _MOST_FACTS}
        schema.add_field("facts", DataType.ARRAY, max_length=FACT_LENGTH, **words)
        schema.add_field("numbers", DataType.JSON)
        indexes = MilvusClient.prepare_index_params()
        build = {"index_type": self._index_type, "metric_type": "IP", "params": _BUILD.get(self._index_type, {})}
        indexes.add_index("vector", **build)
        indexes.add_index("photo", index_type="INVERTED")
        with self._milvus.asked(f"make {self.name}"):
            self._client.create_collection(
                self.name, schema=schema, index_params=indexes, consistency_level="Strong", timeout=TIMEOUT_SECONDS
            )

    def open(self) -> None:
        """Make it ready to be searched. Raises :class:`ArtifactError` when it is missing or of another shape."""
        if not self.exists():
            raise ArtifactError(
                f"Milvus at {_shown(self._milvus.uri)} has no collection {self.name}: migrate the index again, or set "
                "DIPTYCH_MILVUS_URI to where it is"
            )
        with self._milvus.asked(f"load {self.name}"):
            fields = self._client.describe_collection(self.name, timeout=TIMEOUT_SECONDS)["fields"]
            self._client.load_collection(self.name, timeout=TIMEOUT_SECONDS)
        dims = [int(field["params"]["dim"]) for field in fields if field["name"] == "vector"]
        if dims != [self._dim]:
            raise ArtifactError(f"{self.name} has vectors of {dims} dimensions, its manifest says {self._dim}")

    def count(self) -> int:
        return int(self.query("", ["count(*)"])[0]["count(*)"])

    def query(self, expression: str, fields: Sequence[str], **how: Any) -> list[dict[str, Any]]:
        with self._milvus.asked(f"read {self.name}"):
            found: list[dict[str, Any]] = self._client.query(
                self.name,
                filter=expression,
                output_fields=list(fields),
                consistency_level="Strong",
                timeout=TIMEOUT_SECONDS,
                **how,
            )
        return found

    def by_id(self, ids: Sequence[str], fields: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Rows by id; ids that do not exist are left out."""
        known = [one for one in dict.fromkeys(ids) if _ID.fullmatch(one)]
        return {row["id"]: row for part in _parts(known) for row in self.query(among("id", part), ["id", *fields])}

    def stored(self, ids: Sequence[str]) -> dict[str, Stored]:
        """By id; ids that do not exist are left out."""
        return {one: self.as_stored(row) for one, row in self.by_id(ids, STORED).items()}

    def page(self, after: str, limit: int) -> list[str]:
        """Ids that follow ``after``, in order."""
        # What makes it come in the order of ids is what pymilvus's iterator says; an iterator itself asks more often.
        order = {"limit": limit, "iterator": "True", "reduce_stop_for_best": "True"}
        return sorted(row["id"] for row in self.query(_following(after), ["id"], **order))

    def search(
        self, queries: Float32, k: int, expression: str, fields: Sequence[str]
    ) -> list[list[tuple[float, dict[str, Any]]]]:
        """Each query's best with their scores."""
        params = {"ef": min(32_768, max(128, 2 * k))} if self._index_type == "HNSW" else {}
        with self._milvus.asked(f"search {self.name}"):
            found = self._client.search(
                self.name,
                data=list(queries),
                anns_field="vector",
                limit=k,
                filter=expression,
                output_fields=list(fields),
                search_params={"metric_type": "IP", "params": params},
                consistency_level="Strong",
                timeout=TIMEOUT_SECONDS,
            )
        return [[(float(hit["distance"]), {"id": hit["id"], **hit["entity"]}) for hit in line] for line in found]

    def upsert(self, some: Iterable[Stored]) -> None:
        """Raises ValueError for an item that cannot be kept."""
        for part in _parts([self.as_row(one) for one in some]):
            with self._milvus.asked(f"write to {self.name}"):
                self._client.upsert(self.name, part, timeout=TIMEOUT_SECONDS)

    def delete(self, expression: str) -> None:
        with self._milvus.asked(f"forget items of {self.name}"):
            self._client.delete(self.name, filter=expression, timeout=TIMEOUT_SECONDS)

    def check(self, one: Stored) -> None:
        """Raises ValueError for an item that cannot be kept."""
        self.as_row(one)

    def as_row(self, one: Stored) -> dict[str, Any]:
        item = one.item
        items.check(item, self._dim, self._token_dim)
        row: dict[str, Any] = {
            "id": item.id,
            "photo": one.photo,
            "number": one.number,
            "vector": item.vector,
            "metadata": _text(item.metadata),
            "said": _text(one.said),
            "tokens": base64.b64encode(item.tokens.codes.tobytes() + item.tokens.scales.tobytes()).decode(),
            "facts": facts(one.tags, one.said),
            "numbers": numbers(one.said),
        }
        for name in (item.id, one.photo):
            if not _ID.fullmatch(name):
                raise ValueError(
                    f"item {name[:300]!r}: Milvus keeps ids of 1 to {_LONGEST_ID} letters, digits, dots, dashes and "
                    "underscores"
                )
        for field in ("metadata", "said", "tokens", "numbers"):
            size = len((row[field] if isinstance(row[field], str) else json.dumps(row[field])).encode())
            if size > _LONGEST_TEXT:
                raise ValueError(f"item {item.id!r} has {size:,} bytes of {field}, Milvus keeps {_LONGEST_TEXT:,}")
        if len(row["facts"]) > _MOST_FACTS:
            raise ValueError(f"item {item.id!r} has {len(row['facts']):,} tags and values, over {_MOST_FACTS:,}")
        return row

    def as_stored(self, row: dict[str, Any]) -> Stored:
        """From :data:`STORED`."""
        about = json.loads(row["metadata"])
        item = Item(row["id"], about, np.array(row["vector"], np.float32), self.as_tokens(row))
        return Stored(item, int(row["number"]), json.loads(row["said"]), about.get("tags", ()))

    def as_tokens(self, row: dict[str, Any]) -> TokenFeatures:
        data = base64.b64decode(row["tokens"])
        count, left = divmod(len(data), self._token_dim + 2)
        if left:
            raise ArtifactError(f"item {row['id']!r} of {self.name} has {len(data)} bytes of tokens: it is damaged")
        return items.as_tokens(data[: count * self._token_dim], data[count * self._token_dim :], self._token_dim)


def among(field: str, ids: Sequence[str]) -> str:
    """That a field is one of these ids; those that nothing can have are passed over."""
    return f"{field} in {json.dumps([one for one in ids if _ID.fullmatch(one)])}"


def _following(after: str) -> str:
    """That an id follows ``after``, which may hold anything."""
    safe = after[: next((n for n, letter in enumerate(after) if letter not in _LETTERS), len(after))]
    if safe == after:
        return f'id > "{after}"'
    above = [letter for letter in _LETTERS if letter > after[len(safe)]]
    return f'id >= "{safe}{above[0]}"' if above else f'id > "{safe}{_LETTERS[-1] * _LONGEST_ID}"'


def _text(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False)


def _shown(uri: str) -> str:
    return re.sub(r"//[^/@]*@", "//", uri)


def _parts(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(values), _AT_ONCE):
        yield values[start : start + _AT_ONCE]
