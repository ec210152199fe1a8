"""What a filter lets through, and what it says of one that cannot be read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from shared.filters import Filter

PHOTO = {"year": 2021, "place": "Rome", "flash": True, "note": None, "people": ["Ann", "Bo"], "lens": {"mm": 35}}


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("{}", True),
        ('{"year": 2021}', True),
        ('{"year": 2021.0, "place": "Rome"}', True),
        ('{"year": 2021, "place": "Oslo"}', False),
        ('{"year": "2021"}', False),
        ('{"place": ["Oslo", "Rome"]}', True),
        ('{"year": {"gte": 2021, "lt": 2022}}', True),
        ('{"year": {"gt": 2021}}', False),
        ('{"year": {"lte": 2020}}', False),
        ('{"place": {"gte": 0}}', False),
        ('{"flash": true}', True),
        ('{"flash": 1}', False),
        ('{"flash": {"gte": 0}}', False),
        ('{"note": null}', True),
        ('{"missing": null}', False),
        ('{"people": "Bo"}', True),
        ('{"people": ["Cy", "Di"]}', False),
        ('{"lens": "35"}', False),
    ],
)
def test_all_fields_must_fit(text: str, fits: bool) -> None:
    assert Filter.parse(text).fits(PHOTO) is fits


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("year > 2020", "'year > 2020' is not JSON"),
        ("[1]", "'\\[1\\]' is not an object of fields"),
        ('{"year": {}}', "filter.year: a range has some of gt, gte, lt, lte, not \\[\\]"),
        ('{"year": {"from": 1}}', "not \\['from'\\]"),
        ('{"year": {"gte": "x"}}', "filter.year.gte: 'x' is not a finite number"),
        ('{"year": {"gte": NaN}}', "filter.year.gte: nan is not a finite number"),
        ('{"year": []}', "filter.year: a list of 0 values"),
        ('{"year": [[1]]}', "filter.year: \\[1\\] is not a string"),
        (json.dumps(dict.fromkeys(map(str, range(21)), 1)), "21 fields are over the limit of 20"),
    ],
)
def test_what_is_no_filter_is_refused(text: str, says: Any) -> None:
    with pytest.raises(ValueError, match=says):
        Filter.parse(text)


def test_equal_filters_have_equal_texts() -> None:
    assert Filter.parse('{"b": 1, "a": [2]}').text == Filter.parse(' {"a":[2],"b":1}').text
