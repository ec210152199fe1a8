"""Tensors between services: one safetensors buffer, with a JSON object riding in its header.

The format is https://huggingface.co/docs/safetensors: eight bytes of header length, a JSON header, raw bytes. Nothing
in it can execute, which is why it and not pickle crosses the network.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

MEDIA_TYPE = "application/vnd.diptych.safetensors"

# What the parsers raise on headers that are no JSON objects, too deeply nested, or of types and sizes unknown here.
_UNREADABLE = (SafetensorError, ValueError, LookupError, AttributeError, TypeError, OverflowError, RecursionError)

Array = npt.NDArray[Any]


class WireError(ValueError):
    """The bytes are not a tensor message; says why."""


def pack(tensors: Mapping[str, Array], meta: Mapping[str, Any] | None = None) -> bytes:
    """Serialise named arrays and a JSON-able ``meta`` object."""
    contiguous = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    return save(contiguous, metadata={"json": json.dumps(meta or {}, separators=(",", ":"), ensure_ascii=False)})


def unpack(data: bytes) -> tuple[dict[str, Array], dict[str, Any]]:
    """Read what :func:`pack` wrote.

    Raises :class:`WireError` for bytes that are not a message, and for floats that are NaN or infinite: no service has
    a use for them, and FAISS answers them with garbage.
    """
    try:
        tensors = load(data)
        length = int.from_bytes(data[:8], "little")
        meta = json.loads(json.loads(data[8 : 8 + length]).get("__metadata__", {}).get("json", "{}"))
    except _UNREADABLE as error:
        raise WireError(f"the body is not a tensor message ({len(data)} bytes): {error}") from error
    if not isinstance(meta, dict):
        raise WireError(f"the message's metadata must be a JSON object, not {type(meta).__name__}")
    for name, array in tensors.items():
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            raise WireError(f"tensor {name!r} holds NaN or infinity")
    return tensors, meta


def require(tensors: Mapping[str, Array], name: str, dtype: npt.DTypeLike, *shape: int | None) -> Array:
    """The named tensor, checked. ``None`` in ``shape`` matches any length. Raises :class:`WireError`."""
    if name not in tensors:
        raise WireError(f"the message has no tensor {name!r}; it has {sorted(tensors)}")
    array = tensors[name]
    fits = len(array.shape) == len(shape) and all(
        want in (None, got) for want, got in zip(shape, array.shape, strict=True)
    )
    if array.dtype != np.dtype(dtype) or not fits:
        want = "x".join("any" if n is None else str(n) for n in shape)
        raise WireError(f"tensor {name!r} is {array.dtype} {array.shape}; {np.dtype(dtype)} of shape {want} is needed")
    return array
