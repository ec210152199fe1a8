"""Collections of photos and captions on disk: items in SQLite, searched through FAISS."""

from shared.collections.builder import IndexBuilder, Photo
from shared.collections.directory import Collection, IndexDirectory
from shared.collections.items import Item
from shared.collections.snapshot import Snapshot

__all__ = ["Collection", "IndexBuilder", "IndexDirectory", "Item", "Photo", "Snapshot"]
