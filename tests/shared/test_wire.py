"""The tensor messages between services."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from shared import wire
from shared.wire import WireError

DTYPES = st.sampled_from([np.float32, np.float16, np.float64, np.int8, np.int32, np.int64, np.uint8, np.bool_])
ARRAYS = DTYPES.flatmap(
    lambda dtype: arrays.arrays(
        dtype,
        arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
        elements={"allow_nan": False, "allow_infinity": False} if np.issubdtype(dtype, np.floating) else None,
    )
)
# Names are keys of a JSON object, one of which the format keeps for itself.
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=20).filter(lambda name: name != "__metadata__")
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def message(header: bytes, data: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + data


@settings(deadline=None)
@given(st.dictionaries(NAMES, ARRAYS, max_size=4), st.dictionaries(st.text(max_size=10), JSON, max_size=4))
def test_what_is_packed_is_unpacked(tensors: dict[str, wire.Array], meta: dict[str, Any]) -> None:
    found, found_meta = wire.unpack(wire.pack(tensors, meta))
    assert found_meta == meta
    assert set(found) == set(tensors)
    for name, array in tensors.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes()


def test_arrays_that_are_not_contiguous_keep_their_values() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    found, _ = wire.unpack(wire.pack({"turned": array.T, "each_second": array[:, ::2]}))
    assert (found["turned"] == array.T).all()
    assert (found["each_second"] == array[:, ::2]).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(dtype: type, value: float) -> None:
    with pytest.raises(WireError, match="'bad' holds NaN or infinity"):
        wire.unpack(wire.pack({"good": np.ones(3, np.float32), "bad": np.array([1, value], dtype)}))


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        wire.unpack(data)


@settings(deadline=None)
@given(st.integers(0, 10_000))
def test_a_cut_message_is_refused(cut: int) -> None:
    whole = wire.pack({"queries": np.ones((3, 5), np.float32)}, {"model": "tiny/1"})
    with pytest.raises(WireError):
        wire.unpack(whole[: cut % len(whole)])


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 255))
def test_an_altered_message_is_read_or_refused(place: int, value: int) -> None:
    data = bytearray(wire.pack({"queries": np.ones((3, 5), np.float32)}, {"model": "tiny/1"}))
    data[place % len(data)] = value
    try:
        tensors, meta = wire.unpack(bytes(data))
    except WireError:
        return
    assert all(np.isfinite(array).all() for array in tensors.values())
    assert isinstance(meta, dict)


@pytest.mark.parametrize(
    "header",
    [
        b"null",
        b"[]",
        b'{"__metadata__":null}[',
        b'{"__metadata__":{"json":"[1]"}}',
        b'{"__metadata__":{"json":"{"}}',
        json.dumps({"__metadata__": {"json": "[" * 100_000}}).encode(),
        b"[" * 100_000,
        b'{"a":{"dtype":"F8_E4M3","shape":[0],"data_offsets":[0,0]}}',
        b'{"a":{"dtype":"BF16","shape":[0],"data_offsets":[0,0]}}',
        b'{"a":{"dtype":"F32","shape":[0,18446744073709551615],"data_offsets":[0,0]}}',
        b'{"a":{"dtype":"F32","shape":[' + b"1," * 99 + b'0],"data_offsets":[0,0]}}',
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,0]}}',
    ],
)
def test_a_header_that_makes_no_sense_is_refused(header: bytes) -> None:
    with pytest.raises(WireError):
        wire.unpack(message(header))


def test_require_gives_the_tensor_that_fits() -> None:
    array = np.zeros((2, 3), np.float32)
    assert wire.require({"queries": array}, "queries", np.float32, None, 3) is array


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"other": np.zeros((2, 3), np.float32)}, r"no tensor 'queries'; it has \['other'\]"),
        ({"queries": np.zeros((2, 3))}, "float64"),
        ({"queries": np.zeros((2, 4), np.float32)}, "of shape anyx3 is needed"),
        ({"queries": np.zeros(3, np.float32)}, "of shape anyx3 is needed"),
        ({"queries": np.zeros((1, 2, 3), np.float32)}, "of shape anyx3 is needed"),
    ],
)
def test_require_says_what_does_not_fit(tensors: dict[str, wire.Array], says: str) -> None:
    with pytest.raises(WireError, match=says):
        wire.require(tensors, "queries", np.float32, None, 3)
