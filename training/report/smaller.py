"""What int8 towers and stored token features cost and save."""

from __future__ import annotations

from training.report.files import Figures
from training.report.markdown import table
from training.report.recalls import HEAD, six

TOWERS = """The same model with 8 bits for each weight of its towers and a scale for 16 or 32 of them, as
`diptych quantise` stores it. What is computed stays float and takes as long.
With 8-bit activations as well, in ranges found on training
photos, a photo took a third less time on one core, but the image tower's vectors were at a cosine of 0.993 to what
they were even when corrected on training photos (uncorrected, at 0.98 to 0.99, an earlier model lost 0.9 and 1.5 points
of R@1). Matrices multiplied in 8 bits made a caption slower on a CPU without instructions for that. Both sides were
measured alike:"""

TOKENS = """What the reranker reads of an item is stored in int8, with a half-precision scale for each token. Reranked
with that, and with what the towers made before it was rounded:"""


def towers(found: Figures) -> str:
    rows = [
        [f"{model}, {side}", *six(found[side][model]), f"{found[side]['bytes'] / 1e6:.1f}"]
        for model in ("dual", "cross")
        for side in ("float", "int8")
        if model in found[side]
    ]
    return table(["", *HEAD, "MB"], rows)


def tokens(found: Figures) -> str:
    rows = [[side, f"{found[side]['bytes_a_photo']:,}", *six(found[side])] for side in ("exact", "stored")]
    return table(["tokens", "bytes a photo", *HEAD], rows)
