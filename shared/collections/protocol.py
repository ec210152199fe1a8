"""What an index needs of the engine that holds its vectors: a narrow door, with FAISS and SQLite or Milvus behind it.

On either engine a query that cannot be asked is a ValueError, an id that does not exist a KeyError, and an engine that
is away, lacks the collection or holds another one an :class:`~shared.artifacts.ArtifactError`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from shared.collections.items import Item
from shared.collections.library import News
from shared.filters import Filter
from shared.tokens import TokenFeatures

IMAGES, CAPTIONS = "images", "captions"
Float32 = npt.NDArray[np.float32]


class VectorCollection(Protocol):
    """One kind of item of an index. Safe for any number of readers in threads, and one caller of :meth:`apply`."""

    name: str

    def __len__(self) -> int:
        """How many items can be found, as of the last change; asks nobody."""
        ...

    def search(
        self, queries: Float32, k: int, tags: Sequence[str] = (), where: Filter | None = None
    ) -> tuple[Float32, list[list[str]]]:
        """Inner products (B, k') in falling order and ids of each query's best ``k' = min(k, n)``, ``queries`` being
        (B, D), of the n items that have all the ``tags`` and whose photo's metadata fit ``where``; equal ones in the
        order in which they came."""
        ...

    def metadata(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        """In the order of ``ids``."""
        ...

    def tokens(self, ids: Sequence[str]) -> list[TokenFeatures]:
        """In the order of ``ids``."""
        ...

    def items(self, ids: Sequence[str]) -> list[Item]:
        """All that is stored, in the order of ``ids``."""
        ...

    def published(self, photo: str) -> dict[str, Any]:
        """What the index itself says of a photo that its library does not know, in the library's words."""
        ...

    def page(self, after: str, limit: int) -> list[str]:
        """Ids of the index's photos that follow ``after``, in order, whatever the library says of them."""
        ...

    def check(self, item: Item) -> None:
        """Raises ValueError for an item that cannot be kept here."""
        ...

    def apply(self, news: Sequence[News]) -> None:
        """Take in the last change of each of these photos; those that were taken in already change nothing."""
        ...
