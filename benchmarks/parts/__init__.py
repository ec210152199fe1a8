"""The parts of the benchmark: each measures one thing, and fills one file."""
