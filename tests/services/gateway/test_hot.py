from __future__ import annotations

import time

from services.gateway.hot import Hot


def test_what_is_put_in_comes_back_until_its_time_is_over() -> None:
    hot = Hot(max_bytes=100, seconds=0.05)
    assert hot.get("key") is None
    hot.put("key", b"value")
    hot.put("empty", b"")
    assert (hot.get("key"), hot.get("empty"), hot.get("other")) == (b"value", b"", None)
    hot.put("key", b"another")
    assert hot.get("key") == b"another"
    time.sleep(0.06)
    assert hot.get("key") is None
    hot.drop("key")


def test_it_holds_no_more_than_it_may_and_forgets_first_what_was_used_least_lately() -> None:
    hot = Hot(max_bytes=30, seconds=60)
    for key in "abc":
        hot.put(key, b"x" * 9)
    assert hot.get("a") is not None
    hot.put("d", b"x" * 9)
    assert [hot.get(key) is not None for key in "abcd"] == [True, False, True, True]
    hot.put("large", b"x" * 30)
    assert [hot.get(key) for key in ("a", "c", "d", "large")] == [None] * 4
    for key in "efg":  # what was forgotten takes no room
        hot.put(key, b"x" * 9)
    assert all(hot.get(key) for key in "efg")


def test_without_room_it_holds_nothing() -> None:
    hot = Hot(max_bytes=0, seconds=60)
    hot.put("key", b"value")
    assert hot.get("key") is None
