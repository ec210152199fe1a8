"""Readers for the files that captions come in. Each gives the same table, photos and captions in the file's order."""

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from training.data.captioned import DataError, Skipped, name_problem

# `1000.jpg#0<TAB>A dog .` (Flickr8k, Flickr30k); Flickr8k-CN puts the language between: `1000.jpg#zhc#0 ...`.
_TOKEN_LINE = re.compile(r"(?P<name>[^#\t]+)#(?:[a-z]+#)?(?P<number>\d{1,9})[\t ]+(?P<caption>.*)")

_SPLIT_NAMES = {
    "train": "train", "training": "train", "restval": "train",  # the last is COCO's, as Karpathy split it
    "dev": "dev", "val": "dev", "valid": "dev", "validation": "dev",
    "test": "test", "testing": "test",
}  # fmt: skip


@dataclass(frozen=True)
class CaptionTable:
    """What a caption file says.

    `captions`: photo name to its captions, in file order. `splits`: photo name to train, dev or test, or None where
    the file has no such column. `skipped`: what could not be used, by reason.
    """

    captions: Mapping[str, tuple[str, ...]]
    splits: Mapping[str, str] | None
    skipped: Counter[str]


class _Row(NamedTuple):
    name: str
    caption: str
    split: str | None = None
    number: int = 0


def read(path: Path) -> CaptionTable:
    """Read a caption file of any known kind: `.jsonl`, a token file (`name#0<TAB>caption`), or CSV with a header.

    CSV columns and JSON fields: `image`, `caption` (JSON lines may hold a list as `captions`), and optionally `split`.
    A token file's captions are put in the order of their numbers. Raises DataError if the file cannot be read, is of
    no known kind, or has broken CSV quoting (where lines end could only be guessed).
    """
    lines = _lines(path)
    first = next((line for line in lines if line.strip()), "")[:10_000]
    if path.suffix.lower() in {".jsonl", ".ndjson"}:
        return _table(_json_rows(lines), has_splits=any('"split"' in line for line in lines))
    if _TOKEN_LINE.fullmatch(first):
        return _table(_token_rows(lines), has_splits=False)
    columns = [column.strip().lower() for column in next(csv.reader([first]), [])]
    if {"image", "caption"} <= set(columns):
        return _table(_csv_rows(path, lines, columns), has_splits="split" in columns)
    raise DataError(
        f"{path} is no caption file: expected lines `photo.jpg#0<TAB>caption`, a CSV header with the columns image and "
        f"caption, or JSON lines in a .jsonl file; it begins with {first[:80]!r}"
    )


def read_names(path: Path) -> list[str]:
    """The photo names that a split file lists, one a line. Raises DataError if it cannot be read."""
    return [line.strip() for line in _lines(path) if line.strip()]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig", errors="replace").split("\n")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def _token_rows(lines: list[str]) -> Iterator[_Row | None]:
    for line in filter(str.strip, lines):
        match = _TOKEN_LINE.fullmatch(line)
        yield _Row(match["name"].strip(), match["caption"], number=int(match["number"])) if match else None


def _csv_rows(path: Path, lines: list[str], columns: list[str]) -> Iterator[_Row | None]:
    reader = csv.reader((line + "\n" for line in lines), strict=True)
    header_seen = False
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if not header_seen:
                header_seen = True
                continue
            row = dict(zip(columns, cells, strict=False))
            yield _Row(row["image"].strip(), row["caption"], row.get("split")) if len(cells) == len(columns) else None
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}; correct the quoting there") from error


def _json_rows(lines: list[str]) -> Iterator[_Row | None]:
    for line in filter(str.strip, lines):
        try:
            record = json.loads(line)
            captions = record["captions"] if "captions" in record else [record["caption"]]
            name, split = record["image"], record.get("split")
        except (ValueError, KeyError, TypeError, RecursionError):
            yield None
            continue
        if not isinstance(name, str) or not isinstance(captions, list) or not isinstance(split, str | None):
            yield None
            continue
        for caption in captions:
            yield _Row(name, caption, split) if isinstance(caption, str) else None


def _table(rows: Iterator[_Row | None], *, has_splits: bool) -> CaptionTable:
    skipped: Counter[str] = Counter()
    by_name: dict[str, list[_Row]] = {}
    splits: dict[str, str] = {}
    refused: set[str] = set()
    for row in rows:
        split = _SPLIT_NAMES.get((row.split or "").strip().lower()) if row else None
        if row is None or not row.name or "\ufffd" in row.name + row.caption or (has_splits and split is None):
            skipped[Skipped.MALFORMED] += 1
        elif problem := name_problem(row.name):
            skipped[problem] += row.name not in refused  # once for a photo, however many captions it has
            refused.add(row.name)
        elif split is not None and splits.setdefault(row.name, split) != split:
            skipped[Skipped.MALFORMED] += 1  # a photo in two splits would leak from one into the other
        else:
            by_name.setdefault(row.name, [])
            if row.caption.strip():
                by_name[row.name].append(row)
            else:
                skipped[Skipped.EMPTY] += 1
    return CaptionTable(
        captions={
            name: tuple(" ".join(row.caption.split()) for row in sorted(group, key=lambda row: row.number))
            for name, group in by_name.items()
        },
        splits=splits if has_splits else None,
        skipped=skipped,
    )
