"""Tags and filters (:mod:`shared.filters`) in Milvus's words, with the meaning that they have in Python.

Milvus compares JSON by rules of its own (of types, lists, large integers), and takes an expression as text. So an item
carries what it can be found by in a form that leaves nothing to interpret, and that no caller's text is pasted into:

- ``facts``: a digest of each tag and of each (field, value), for a list of each of its values. A tag, a value and a
  list of values are then the containment of digests.
- ``numbers``: of fields with one number that a double holds exactly, that number, under a digest of the field's name. A
  range is then a comparison of doubles.
- What cannot be compared so, numbers in lists and integers that a double cannot hold, is marked by a fact. Items that
  have such a field are read and judged in Python, and the range also finds those that fit by id.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from shared.filters import Filter

FACT_LENGTH = 32
_SIGNS = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}


def facts(tags: Sequence[str], said: Mapping[str, Any]) -> list[str]:
    """Of an item with ``tags``, of a photo of which ``said`` was said."""
    found = {_tag(tag): None for tag in tags}
    for field, value in said.items():
        values = value if isinstance(value, list) else [value]
        found |= {_equals(field, one): None for one in values if _is_scalar(one)}
        if _numbers(value) and _comparable(value) is None:
            found[_unlike(field)] = None
    return list(found)


def numbers(said: Mapping[str, Any]) -> dict[str, float]:
    return {_key(field): number for field, value in said.items() if (number := _comparable(value)) is not None}


def expression(tags: Sequence[str], where: Filter | None, judged: Callable[[str, Filter], Sequence[str]]) -> str:
    """What an item must be; empty when all are. ``judged`` gives the ids of the items with a fact that fit a filter."""
    parts = [f"ARRAY_CONTAINS_ALL(facts, {json.dumps([_tag(tag) for tag in tags])})"] if tags else []
    for field, wanted in (where.fields if where is not None else {}).items():
        if isinstance(wanted, Mapping):
            bounds = [_bound(_key(field), bound, limit) for bound, limit in wanted.items()]
            ids = judged(_unlike(field), Filter({field: wanted}))
            parts.append(
                f"(({' and '.join(bounds)}) or id in {json.dumps(list(ids))})" if ids else " and ".join(bounds)
            )
        else:
            values = wanted if isinstance(wanted, list) else [wanted]
            parts.append(f"ARRAY_CONTAINS_ANY(facts, {json.dumps([_equals(field, value) for value in values])})")
    return " and ".join(parts)


def has(fact: str) -> str:
    return f"ARRAY_CONTAINS_ANY(facts, {json.dumps([fact])})"


def _bound(key: str, bound: str, limit: float) -> str:
    """The comparison of doubles that is the same as with ``limit``, which may be an integer between two of them."""
    try:
        near = float(limit)
    except OverflowError:
        near = sys.float_info.max if limit > 0 else -sys.float_info.max
    sign = _SIGNS[bound]
    if near != limit:
        sign = (">" if near < limit else ">=") if bound[0] == "g" else ("<=" if near < limit else "<")
    return f'numbers["{key}"] {sign} {near!r}'


def _comparable(value: Any) -> float | None:
    try:
        return float(value) if _is_number(value) and float(value) == value else None
    except OverflowError:
        return None


def _numbers(value: Any) -> bool:
    return any(map(_is_number, value)) if isinstance(value, list) else _is_number(value)


def _is_number(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, str | bool) or _is_number(value)


def _tag(tag: str) -> str:
    return _digest("tag", tag)


def _equals(field: str, value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # equal numbers are alike, however they are written
    return _digest("is", field, value)


def _unlike(field: str) -> str:
    return _digest("numbers that doubles do not order", field)


def _key(field: str) -> str:
    return f"n{_digest('number', field)[:16]}"


def _digest(*words: Any) -> str:
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()[:FACT_LENGTH]
