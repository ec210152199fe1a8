"""Kinds of sealed shard: which one fits, what it takes, and how it is made with FAISS."""

from __future__ import annotations

from typing import Any

import numpy as np

from shared.collections.exact import Bool, Float32, Index, Int64, faiss, forget, selector
from shared.schemas import ShardKind

EXACT_ITEMS = 50_000  # up to so many, exact search answers in a few milliseconds
LEAST_ITEMS = 1_000  # of fewer nothing can be learnt
_ENERGY = 0.99  # what a projection keeps of the vectors' and queries' inner products
_LINKS = 32
_PER_LIST = 40  # vectors that a centroid is made from
_MOST_LISTS = 8192
_SAMPLE = 100_000
_CHUNK = 32_768


def bytes_per_item(kind: ShardKind, dim: int) -> int:
    """Of memory that must be quick to reach, at the most; the vectors that candidates are refined from lie on disk."""
    return {
        "flat": 4 * dim,
        "hnsw": dim + 8 * _LINKS + 16,
        "ivf_flat": 4 * dim + 8,
        "ivf_sq8": dim + 8,
        "ivf_pq": dim // 4 + 8,
    }[kind]


def choose(items: int, dim: int, budget_bytes: int, recall: float) -> ShardKind:
    """The quickest kind that ``items`` vectors can be searched by within the budget, at a recall (0 to 1) that it can
    be tuned to: exact search as long as that is quick, a graph, then lists of ever smaller codes."""
    fits = [k for k in ("flat", "hnsw", "ivf_sq8", "ivf_pq") if items * bytes_per_item(k, dim) <= budget_bytes]
    if items < LEAST_ITEMS or recall >= 1 or (items <= EXACT_ITEMS and "flat" in fits):
        return "flat"
    return next((kind for kind in ("hnsw", "ivf_sq8") if kind in fits), "ivf_pq")


def made(kind: ShardKind, vectors: Float32, queries: Float32) -> Index:
    """An index of all ``vectors`` (N, D), which may be mapped from a file: no more than a sample is ever in memory.
    ``queries`` (n, D) are of those that will be asked."""
    rng = np.random.default_rng(0)
    lists = _lists(len(vectors))
    sample = _some(vectors, max(_SAMPLE, lists * _PER_LIST), rng)
    projection = _identity(vectors.shape[1]) if kind == "ivf_flat" else _projection(sample, queries)
    if kind == "ivf_pq":
        projection = _turned(projection, rng)
    index = faiss.IndexPreTransform(_transform(projection), _bare(kind, len(projection), lists))
    seen = index.chain.at(0).apply(sample)
    inner = faiss.downcast_index(index.index)
    gpu = faiss.get_num_gpus() > 0
    if isinstance(inner, faiss.IndexIVF):
        inner.cp.max_points_per_centroid = _PER_LIST
        if gpu:
            inner.clustering_index = faiss.index_cpu_to_all_gpus(faiss.IndexFlatIP(inner.d))
    inner.train(seen)
    index.is_trained = True
    coarse = inner.quantizer if isinstance(inner, faiss.IndexIVF) else None
    if coarse is not None and gpu:
        coarse = faiss.index_cpu_to_all_gpus(coarse)
    for start in range(0, len(vectors), _CHUNK):
        part = index.chain.at(0).apply(np.ascontiguousarray(vectors[start : start + _CHUNK]))
        if coarse is None:
            inner.add(part)
        else:
            assigned = np.ascontiguousarray(coarse.search(part, 1)[1])
            inner.add_core(len(part), faiss.swig_ptr(part), None, faiss.swig_ptr(assigned))
        forget(vectors)
    index.ntotal = inner.ntotal
    return index


def opened(path: str, kind: ShardKind) -> Index:
    """Mapped from its file: FAISS has one way for lists, another for a graph and its codes."""
    if kind == "hnsw":
        return faiss.read_index(path, faiss.IO_FLAG_MMAP_IFC)
    index = faiss.read_index(path, faiss.IO_FLAG_MMAP)
    lists = faiss.downcast_InvertedLists(faiss.downcast_index(index.index).invlists)
    if isinstance(lists, faiss.OnDiskInvertedLists):
        lists.prefetch_nthread = 0  # its threads are made anew for every search
    return index


def nearest(index: Index, queries: Float32, n: int, effort: int, among: Bool | None) -> Int64:
    """Rows (B, n) that seem nearest to each query, -1 behind the last that was found."""
    options: dict[str, Any] = {} if among is None else {"sel": selector(among)}
    if isinstance(faiss.downcast_index(index.index), faiss.IndexIVF):
        inner = faiss.SearchParametersIVF(nprobe=effort, **options)
    else:
        inner = faiss.SearchParametersHNSW(efSearch=max(effort, n), **options)
    parameters = faiss.SearchParametersPreTransform(index_params=inner)
    rows: Int64 = index.search(queries, n, params=parameters)[1]
    return rows


def name_of_effort(index: Index) -> str:
    return "nprobe" if isinstance(faiss.downcast_index(index.index), faiss.IndexIVF) else "efSearch"


def described(index: Index) -> dict[str, int]:
    """Of what size it was made."""
    inner = faiss.downcast_index(index.index)
    lists = {"lists": int(inner.nlist)} if isinstance(inner, faiss.IndexIVF) else {}
    return {"dimensions": int(inner.d), **lists}


def most_effort(index: Index) -> int:
    """With which (almost) every vector is looked at."""
    inner = faiss.downcast_index(index.index)
    return int(inner.nlist) if isinstance(inner, faiss.IndexIVF) else 4096


def bytes_read(index: Index, effort: int) -> float:
    """About what a search of one query reads, by which efforts are compared."""
    inner = faiss.downcast_index(index.index)
    if isinstance(inner, faiss.IndexIVF):
        # A byte of a product quantiser's code is a look-up, of another an eighth of a vector instruction.
        each = inner.code_size * (8 if isinstance(inner, faiss.IndexIVFPQ) else 1)
        return float(4 * inner.d * inner.nlist + effort * inner.ntotal / inner.nlist * each)
    return float(effort * _LINKS * inner.d)


def _lists(items: int) -> int:
    """About four times the root, a power of two."""
    return int(min(_MOST_LISTS, 2 ** np.round(np.log2(4 * np.sqrt(items))), max(1, items // _PER_LIST)))


def _bare(kind: ShardKind, dim: int, lists: int) -> Any:
    coarse, metric = faiss.IndexFlatIP(dim), faiss.METRIC_INNER_PRODUCT
    if kind == "hnsw":
        index = faiss.IndexHNSWSQ(dim, faiss.ScalarQuantizer.QT_8bit, _LINKS // 2, metric)
        index.hnsw.efConstruction = 80
        return index
    if kind == "ivf_flat":
        index = faiss.IndexIVFFlat(coarse, dim, lists, metric)
    elif kind == "ivf_sq8":
        index = faiss.IndexIVFScalarQuantizer(coarse, dim, lists, faiss.ScalarQuantizer.QT_8bit, metric)
    elif kind == "ivf_pq":
        index = faiss.IndexIVFPQ(coarse, dim, lists, max(1, dim // 4), 8, metric)
    else:
        raise ValueError(f"a shard of kind {kind} needs no index of FAISS's")
    index.own_fields, _ = True, coarse.this.disown()
    return index


def _some(vectors: Float32, n: int, rng: np.random.Generator) -> Float32:
    if n >= len(vectors):
        return np.ascontiguousarray(vectors)
    return np.ascontiguousarray(vectors[np.sort(rng.choice(len(vectors), n, replace=False))])


def _identity(dim: int) -> Float32:
    return np.eye(dim, dtype=np.float32)


def _projection(vectors: Float32, queries: Float32) -> Float32:
    """(d, D), onto the directions in which vectors and queries are longest, a multiple of 8 as few as keep their inner
    products: LeanVec-OOD's (Tepper et al. 2023, arXiv:2312.16335). Nothing is centred, which would change them."""
    moments = [part.T @ part / len(part) for part in (vectors, queries)]
    lengths, directions = np.linalg.eigh(sum(moment / np.trace(moment) for moment in moments) / 2)
    kept = np.cumsum(lengths[::-1]) >= _ENERGY
    wanted = 8 * -(-(int(np.argmax(kept)) + 1) // 8)
    return np.ascontiguousarray(directions[:, ::-1][:, : min(wanted, vectors.shape[1])].T, np.float32)


def _turned(projection: Float32, rng: np.random.Generator) -> Float32:
    """At random, so that each part of a product quantiser's code has as much to say."""
    turn = np.linalg.qr(rng.standard_normal((len(projection), len(projection))))[0]
    return np.ascontiguousarray(turn @ projection, np.float32)


def _transform(matrix: Float32) -> Any:
    transform = faiss.LinearTransform(matrix.shape[1], matrix.shape[0], False)
    faiss.copy_array_to_vector(matrix.ravel(), transform.A)
    transform.is_trained = True
    return transform
