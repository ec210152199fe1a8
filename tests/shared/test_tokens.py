"""Compact token features."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from shared import tokens, wire
from shared.tokens import TokenFeatures
from shared.wire import WireError

VALUES = st.floats(-1e6, 1e6, width=32)
ROWS = arrays.arrays(np.float32, st.tuples(st.integers(0, 6), st.just(8)), elements=VALUES)
ITEM = arrays.arrays(np.float32, st.tuples(st.integers(1, 6), st.just(8)), elements=VALUES).map(TokenFeatures.quantise)


@settings(deadline=None)
@given(ROWS)
def test_a_value_comes_back_within_half_a_step(rows: npt.NDArray[np.float32]) -> None:
    features = TokenFeatures.quantise(rows)
    assert features.codes.dtype == np.int8
    assert features.scales.dtype == np.float16
    assert len(features) == len(rows)
    largest = np.abs(rows).max(axis=1, keepdims=True)
    # Half a step of 127, and what rounding the scale to float16 (11 bits; 2**-25 where it is subnormal) costs at most.
    allowed = largest * (1 / 254 + 2**-11 + 2**-18) + 127.5 * 2**-25
    assert (np.abs(features.dequantise() - rows) <= allowed).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e7])
def test_what_cannot_be_held_is_refused(value: float) -> None:
    rows = np.ones((3, 8), np.float32)
    rows[1, 2] = value
    with pytest.raises(ValueError, match="NaN, infinity or values over 8 million"):
        TokenFeatures.quantise(rows)


@settings(deadline=None)
@given(st.lists(ITEM, max_size=5), st.sampled_from(["", "query_"]))
def test_a_ragged_batch_crosses_the_wire(items: list[TokenFeatures], prefix: str) -> None:
    tensors, _ = wire.unpack(wire.pack(tokens.to_tensors(items, prefix)))
    found = tokens.from_tensors(tensors, prefix, dim=8)
    assert len(found) == len(items)
    for one, other in zip(found, items, strict=True):
        assert (one.codes == other.codes).all()
        assert (one.scales == other.scales).all()


@pytest.mark.parametrize("lengths", [[2], [4], [-1, 4], [0, 3], [3, 0], [2**31 - 1, 2**31 - 1, 5], []])
def test_parts_that_disagree_are_refused(lengths: list[int]) -> None:
    whole = tokens.to_tensors([TokenFeatures.quantise(np.ones((3, 8), np.float32))])
    with pytest.raises(WireError, match="do not fit"):
        tokens.from_tensors({**whole, "lengths": np.array(lengths, np.int32)})


def test_tokens_of_another_width_are_refused() -> None:
    whole = tokens.to_tensors([TokenFeatures.quantise(np.ones((3, 8), np.float32))])
    with pytest.raises(WireError, match="of shape anyx16 is needed"):
        tokens.from_tensors(whole, dim=16)
    with pytest.raises(WireError, match="no tensor 'query_lengths'"):
        tokens.from_tensors(whole, "query_", dim=8)


def test_padding_is_masked() -> None:
    short, long = (TokenFeatures.quantise(np.full((n, 2), n, np.float32)) for n in (1, 3))
    padded, mask = tokens.pad([short, long])
    assert mask.tolist() == [[True, False, False], [True, True, True]]
    assert padded.shape == (2, 3, 2)
    assert (padded[0, 1:] == 0).all()
    np.testing.assert_allclose(padded[0, 0], 1, rtol=1e-3)
    np.testing.assert_allclose(padded[1], 3, rtol=1e-3)
