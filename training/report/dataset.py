"""What was counted in the data set, as a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from training.report.files import Figures
from training.report.markdown import percent, table


def counts(found: Figures) -> str:
    splits = found["splits"]
    rows: list[list[object]] = []

    def row(title: str, values: Iterable[object]) -> None:
        rows.append([title, *values])

    parts = list(splits.values())
    row("photos", (f"{part['images']:,}" for part in parts))
    row("captions", (f"{part['captions']:,}" for part in parts))
    row("captions of a photo", (_range(part["captions_per_image"]) for part in parts))
    row("photos of the commonest size", (_size(part["sizes"][0]) for part in parts))
    row("median words of a caption, marks counted", (f"{part['median_words']:.0f}" for part in parts))
    row("captions said before, word for word", (f"{part['repeated_captions']:,}" for part in parts))
    row("different content words", (f"{part['content_words']:,}" for part in parts))
    row("of these, said in one caption only", (f"{part['content_words_said_once']:,}" for part in parts))
    for kind in parts[0]["kinds"]:
        for answer in parts[0]["kinds"][kind]:
            if answer != "no":
                title = f"captions: {kind}" + ("" if answer == "yes" else f": {answer}")
                row(title, (percent(part["kinds"][kind][answer]) for part in parts))
    return table(["", *splits], rows)


def commonest(found: Figures) -> str:
    return ", ".join(
        f"{entry['word']} ({percent(entry['share_of_images'])})" for entry in found["splits"]["train"]["commonest"]
    )


def _range(bounds: Sequence[int]) -> str:
    low, high = bounds
    return f"{low}" if low == high else f"{low} to {high}"


def _size(entry: Mapping[str, int]) -> str:
    return f"{entry['images']:,} of {entry['width']}x{entry['height']}"
