"""What schemathesis puts into bodies whose form a description cannot tell: tensor messages and lines of JSON, whole and
damaged."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import schemathesis
from hypothesis import strategies as st

from shared import wire
from shared.tokens import TokenFeatures, to_tensors

_DIMS = st.sampled_from([1, 16, 64])
_NAMES = st.sampled_from(["queries", "embedding", "captions_embedding", "photo", "codes", "scales", "lengths", "other"])
_DTYPES = st.sampled_from([np.float32, np.float64, np.uint8, np.int8, np.int64])


def _array(shape: list[int], dtype: Any) -> wire.Array:
    """Unit vectors where they are floats."""
    found = np.ones(shape, dtype)
    return found / np.sqrt(shape[-1]).astype(dtype) if np.issubdtype(dtype, np.floating) and shape else found


_ARRAYS = st.builds(_array, st.lists(st.sampled_from([0, 1, 2, 16, 64]), max_size=3), _DTYPES)
_TOKENS = st.builds(
    lambda n, length, dim, prefix: to_tensors([TokenFeatures.quantise(np.ones((length, dim)))] * n, prefix),
    st.integers(0, 3),
    st.integers(1, 5),
    _DIMS,
    st.sampled_from(["", "query_", "captions_"]),
)
_META: st.SearchStrategy[dict[str, Any]] = st.dictionaries(
    st.sampled_from(["fingerprint", "name", "captions", "tags", "metadata", "x"]),
    st.none() | st.text(max_size=5) | st.lists(st.text(max_size=5), max_size=2) | st.just({}),
)
_WHOLE = st.builds(
    lambda arrays, some, more, meta: wire.pack({**arrays, **some, **more}, json.loads(json.dumps(meta))),
    st.dictionaries(_NAMES, _ARRAYS, max_size=3),
    _TOKENS,
    _TOKENS,
    _META,
)
_CUT = st.builds(lambda whole, at: whole[: at % len(whole)], _WHOLE, st.integers(0, 10_000))
_VALUES: st.SearchStrategy[Any] = (
    st.none() | st.integers() | st.text(max_size=5) | st.lists(st.text(max_size=5), max_size=2)
)
_NEW: st.SearchStrategy[dict[str, Any]] = st.dictionaries(
    st.sampled_from(["image", "id", "name", "captions", "tags", "metadata", "x"]), _VALUES | st.just("aGVsbG8=")
)
_LINE = st.binary(max_size=50) | (_VALUES | _NEW).map(lambda value: json.dumps(value).encode())

schemathesis.openapi.media_type("application/x-ndjson", st.lists(_LINE, max_size=4).map(b"\n".join))
schemathesis.openapi.media_type(wire.MEDIA_TYPE, st.binary(max_size=200) | _WHOLE | _CUT)
