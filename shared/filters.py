"""A small language for what a photo's metadata must say, in JSON.

An object of fields, all of which must fit. A field is given as a value that it must equal, a list of values of which it
must equal one, or a range of numbers, with any of ``gt``, ``gte``, ``lt`` and ``lte``::

    {"place": "Rome", "camera": ["a", "b"], "year": {"gte": 2020, "lt": 2024}}

Values are strings, finite numbers, true, false and null. A field that a photo lacks fits nothing, not even null; true
and 1 are unlike. Where a photo's field is a list, one of its values has to fit.
"""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

Fits = Callable[[Any], bool]
MOST_FIELDS, MOST_VALUES, MOST_CHARS = 20, 1000, 8000
_BOUNDS: dict[str, Callable[[Any, Any], bool]] = {
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}


class Filter:
    """A filter that was read and checked; ``text`` is the same for all that are written alike but for order and
    space, and ``fields`` is what was wanted of each field, as it was written."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        """Raises ValueError."""
        if len(fields) > MOST_FIELDS:
            raise ValueError(f"filter: {len(fields)} fields are over the limit of {MOST_FIELDS}")
        self.fields = dict(fields)
        self._fields = {name: _condition(name, wanted) for name, wanted in fields.items()}
        self.text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
        if len(self.text) > MOST_CHARS:  # it travels in the address of a request
            raise ValueError(f"filter: {len(self.text):,} characters are over the limit of {MOST_CHARS:,}")

    @staticmethod
    def parse(text: str) -> Filter:
        """Raises ValueError that says what is wrong."""
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"filter: {text[:40]!r} is not JSON ({error})") from error
        if not isinstance(fields, dict):
            raise ValueError(f'filter: {text[:40]!r} is not an object of fields, such as {{"year": {{"gte": 2020}}}}')  # noqa: TRY004
        return Filter(fields)

    @property
    def empty(self) -> bool:
        """Whether everything fits."""
        return not self._fields

    def fits(self, metadata: Mapping[str, Any]) -> bool:
        return all(name in metadata and _any(metadata[name], fits) for name, fits in self._fields.items())


def _any(value: Any, fits: Fits) -> bool:
    return any(map(fits, value)) if isinstance(value, list) else fits(value)


def _condition(name: str, wanted: Any) -> Fits:
    if isinstance(wanted, dict):
        return _range(name, wanted)
    values = wanted if isinstance(wanted, list) else [wanted]
    if not 1 <= len(values) <= MOST_VALUES:
        raise ValueError(f"filter.{name}: a list of {len(values)} values; it must have 1 to {MOST_VALUES}")
    for one in values:
        if not (one is None or isinstance(one, str | bool) or _number(one)):
            raise ValueError(f"filter.{name}: {one!r} is not a string, a finite number, true, false or null")
    allowed = {(isinstance(one, bool), one) for one in values}
    return lambda value: not isinstance(value, dict | list) and (isinstance(value, bool), value) in allowed


def _range(name: str, wanted: Mapping[str, Any]) -> Fits:
    if not wanted or not wanted.keys() <= _BOUNDS.keys():
        raise ValueError(f"filter.{name}: a range has some of {', '.join(_BOUNDS)}, not {sorted(wanted)}")
    for bound, limit in wanted.items():
        if not _number(limit):
            raise ValueError(f"filter.{name}.{bound}: {limit!r} is not a finite number")
    bounds = [(_BOUNDS[bound], limit) for bound, limit in wanted.items()]
    return lambda value: _number(value) and all(holds(value, limit) for holds, limit in bounds)


def _number(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)
