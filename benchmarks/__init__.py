"""The performance benchmark: real services under load, side by side with what they could be replaced by.

``python -m benchmarks`` writes one JSON file a part; the page ``docs/performance.md`` is made from these files alone.
"""
