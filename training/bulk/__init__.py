"""Indexing large collections on Ray Data: from folders, object stores, tar shards and Parquet files."""
