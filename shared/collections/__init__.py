"""Collections of photos and captions on disk: items in SQLite, searched through FAISS."""

from shared.collections.builder import IndexBuilder, Photo
from shared.collections.directory import CAPTIONS, IMAGES, Collection, IndexDirectory
from shared.collections.items import Item
from shared.collections.library import LIBRARIES, Library, LibraryReader
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
]
