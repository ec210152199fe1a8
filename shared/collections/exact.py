"""Exact inner products: of queries with all of an array's vectors, with some of them, or each with its own few."""

from __future__ import annotations

import mmap
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

faiss: Any = import_module("faiss")  # its own annotations are those of the C++ functions that its Python wrappers hide
Index = Any  # faiss.IndexPreTransform
Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]
Found = tuple[Float32, Int64]
_PART = 131_072
_FEW = 16  # one row in so many, or fewer, are quicker gathered than passed over


def nearest(vectors: Float32, queries: Float32, k: int, among: Bool | None = None) -> Found:
    """Each query's best ``k' = min(k, n)`` of the n rows that may be found: scores (B, k') in falling order and rows.

    ``vectors`` (N, D), which may be mapped from a file, ``queries`` (B, D), ``among`` (N,). FAISS picks any of several
    rows with the last score.
    """
    count = len(vectors) if among is None else int(np.count_nonzero(among))
    k = min(k, count)
    if k == 0:
        return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    if among is not None and count * _FEW <= len(vectors):
        return _of_rows(vectors, np.flatnonzero(among), queries, k)
    scores, rows = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
    queries, vectors = np.ascontiguousarray(queries), np.ascontiguousarray(vectors)
    arrays = [faiss.swig_ptr(array) for array in (queries, vectors)]
    sizes = vectors.shape[1], len(queries), len(vectors), k
    chosen = None if among is None or count == len(vectors) else selector(among)
    # What an IndexFlatIP calls, without a copy of the vectors for it.
    faiss.knn_inner_product(*arrays, *sizes, faiss.swig_ptr(scores), faiss.swig_ptr(rows), chosen)
    return scores, rows


def nearest_in_parts(vectors: Float32, queries: Float32, k: int) -> Found:
    """As :func:`nearest`, holding no more than a part of vectors that are mapped from a file."""
    found = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    for start in range(0, len(vectors), _PART):
        scores, rows = nearest(vectors[start : start + _PART], queries, k)
        found = best(np.hstack([found[0], scores]), np.hstack([found[1], rows + start]), k)
        forget(vectors)
    return found


def forget(vectors: Float32) -> None:
    """Count what was read of vectors that are mapped from a file as this process's memory no longer."""
    if isinstance(vectors.base, mmap.mmap):
        vectors.base.madvise(mmap.MADV_DONTNEED)


def in_rows(vectors: Float32, queries: Float32, k: int, among: Bool | None = None) -> Found:
    """As :func:`nearest`, by one product of matrices: for few rows."""
    return _of_rows(vectors, None if among is None else np.flatnonzero(among), queries, k)


def products(vectors: Float32, queries: Float32, rows: Int64) -> Float32:
    """(B, n), of each query with its own ``rows`` (B, n); minus infinity where a row is -1."""
    # FAISS's function for this waits until all its threads have run: milliseconds where the cores are busy.
    scores = np.full(rows.shape, -np.inf, np.float32)
    for query, own, found in zip(queries, rows, scores, strict=True):
        there = own >= 0
        found[there] = vectors[own[there]] @ query
    return scores


def best(scores: Float32, rows: Int64, k: int) -> Found:
    """The first ``k`` by falling score, ties by row."""
    order = np.lexsort((rows, -scores), axis=1)[:, :k]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)


def selector(among: Bool) -> Any:
    """What FAISS passes rows over by."""
    return faiss.IDSelectorBitmap(np.packbits(among, bitorder="little"))


def _of_rows(vectors: Float32, rows: Int64 | None, queries: Float32, k: int) -> Found:
    some = vectors if rows is None else vectors[rows]
    if rows is None:
        rows = np.arange(len(vectors))
    scores = queries @ some.T
    if k < len(rows):
        chosen = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        return best(np.take_along_axis(scores, chosen, axis=1), rows[chosen], k)
    return best(scores, np.broadcast_to(rows, scores.shape), k)
