"""Collections of photos and captions: items in SQLite, searched through FAISS, or all in Milvus."""

from shared.collections.builder import IndexBuilder, Photo
from shared.collections.directory import Collection, IndexDirectory
from shared.collections.items import Item
from shared.collections.library import LIBRARIES, Library, LibraryReader
from shared.collections.protocol import CAPTIONS, IMAGES, VectorCollection
from shared.collections.sealed import Sealing
from shared.collections.snapshot import Snapshot

__all__ = [
    "CAPTIONS",
    "IMAGES",
    "LIBRARIES",
    "Collection",
    "IndexBuilder",
    "IndexDirectory",
    "Item",
    "Library",
    "LibraryReader",
    "Photo",
    "Sealing",
    "Snapshot",
    "VectorCollection",
]
