"""From a finished run to an artifact worth publishing: export, parity on real photos, scores calibrated on dev."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from rich.console import Console

from shared.artifacts import ArtifactError, ModelManifest, write_manifest
from shared.engines import images
from shared.engines.onnx_engine import OnnxEngine
from training import evaluate, export
from training.checkpoint import Checkpoint
from training.data import layouts


def export_run(
    run: Path, out: Path, data: Path, *, name: str, version: str, depth: int, console: Console
) -> ModelManifest:
    """Write the artifact of ``run`` to ``out``, which appears only when every check has passed.

    Raises :class:`training.export.ParityError` when the graphs do not compute what the torch modules compute.
    """
    if out.exists():
        raise ArtifactError(f"{out} already exists; remove it or give another --out")
    checkpoint = Checkpoint.load(run)
    dev = layouts.load(data, "dev")
    beside = out.with_name(f".{out.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        with console.status("exporting the graphs"):
            manifest = export.export(
                checkpoint.model,
                checkpoint.tokenizer,
                beside,
                name=name,
                version=version,
                vocabulary=checkpoint.words,
                metrics=checkpoint.metrics,
                training=checkpoint.training,
            )
        sample = dev.images[:64]
        pixels = np.stack([images.pixels(image.path.read_bytes(), manifest.preprocessing) for image in sample])
        parity = export.check_parity(beside, pixels, [image.captions[0] for image in sample])
        console.print(f"parity with torch: {parity}", highlight=False)
        engine = OnnxEngine(beside)
        split = evaluate.embed(engine, dev, console)
        found = evaluate.rerank(engine, split, depth, console) if manifest.has_reranker else None
        scoring = evaluate.fit_scoring(split, found)
        measured = {"parity": parity, "dual": evaluate.figures(split.similarity, split.similarity, split.caption_image)}
        if found is not None:
            scores = evaluate.cross_scores(split, found, scoring.similarity_weight)
            measured["cross"] = {"rerank_depth": depth, **evaluate.figures(*scores, split.caption_image)}
        manifest = manifest.model_copy(update={"scoring": scoring, "metrics": {"dev": measured}})
        write_manifest(beside, manifest)
        beside.rename(out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return manifest
