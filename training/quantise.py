"""From a model artifact to one whose towers are stored in int8, and what that costs in recall and saves in bytes.

Activations stay float, and so do weights once they are loaded: it computes what it computed, as fast.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from shared.artifacts import ArtifactError, ModelManifest, read_manifest, verify_files
from shared.engines.onnx_engine import OnnxEngine
from training import publish
from training.checkpoint import Checkpoint
from training.data import layouts
from training.evaluate import measured_with

WAYS = {"t2i": "text to image", "i2t": "image to text"}


class LossError(ArtifactError):
    """The int8 artifact finds too much less than the other one; it was not written."""


def quantise(
    source: Path, data: Path, out: Path, *, version: str | None, depth: int, max_loss: float, console: Console
) -> dict[str, Any]:
    """Write the int8 form of the artifact ``source`` to ``out``, which appears only when every check has passed.

    Returns a report of both artifacts side by side, measured on the dev split of ``data``. Raises :class:`LossError`
    when it loses over ``max_loss`` points of R@1 either way, by the dual encoder or reranked, and
    :class:`ArtifactError` for a source that is damaged or int8 already.
    """
    publish.refuse(out)
    before = read_manifest(source)
    verify_files(source, before)
    checkpoint = Checkpoint.published(source)
    if "int8" in checkpoint.training:
        raise ArtifactError(f"{source}: {before.ref} is int8 already; give the artifact that it was made from")
    checkpoint.training["int8"] = {"from": before.ref, "fingerprint": before.fingerprint}
    dev, engine = layouts.load(data, "dev"), OnnxEngine(source)
    beside = out.with_name(f".{out.name}.measured")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        after = publish.artifact(
            checkpoint,
            beside,
            dev,
            name=before.name,
            version=version or f"{before.version}-int8",
            depth=depth,
            console=console,
            int8=True,
        )
        report = {
            "float": _side(engine.manifest, publish.measured(engine, dev, depth, console)[0]),
            "int8": _side(after, after.metrics["dev"]),
        }
        _check(report, max_loss)
        beside.rename(out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    captions = sum(len(image.captions) for image in dev.images)
    return {**measured_with(engine), "quantised": after.ref, "images": len(dev), "captions": captions, **report}


def _side(manifest: ModelManifest, recalls: Mapping[str, Any]) -> dict[str, Any]:
    return {"bytes": sum(entry.bytes for entry in manifest.files.values()), **recalls}


def _check(report: Mapping[str, Any], max_loss: float) -> None:
    losses = []
    for model in ("dual", "cross"):
        for way, title in WAYS.items():
            if model in report["float"]:
                before, after = (report[key][model][way]["r1"] for key in ("float", "int8"))
                if before - after > max_loss + 1e-9:
                    losses.append(f"{model} {title} loses {before - after:.2f} ({before:.2f} to {after:.2f})")
    if losses:
        raise LossError(
            f"nothing was written: {'; '.join(losses)}, over --max-loss {max_loss:g} points of R@1. "
            "Allow a larger loss, or stay with the artifact that there is"
        )
