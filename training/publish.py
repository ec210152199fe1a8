"""From a finished run, or a CLIP-class model as it is, to an artifact worth publishing: export, parity, calibration."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from rich.console import Console

from shared.artifacts import ArtifactError, ImagePreprocessing, ModelManifest, write_manifest
from shared.engines import images
from shared.engines.engine import Engine
from shared.engines.onnx_engine import OnnxEngine
from shared.models import Diptych
from shared.schemas import Calibration, Scoring
from training import evaluate, export, pretrained_clip
from training.checkpoint import Checkpoint
from training.data import layouts
from training.data.captioned import CaptionedImages

_THINGS = ("dog", "cat", "child", "tree", "car", "house", "boat", "beach", "cup", "street", "flower", "bird", "horse")
_ITEMS = 1000


def export_run(
    run: Path, out: Path, data: Path, *, name: str, version: str, depth: int, console: Console
) -> ModelManifest:
    """Write the artifact of ``run`` to ``out``, which appears only when every check has passed.

    Raises :class:`training.export.ParityError` when the graphs do not compute what the torch modules compute.
    """
    refuse(out)
    checkpoint = Checkpoint.load(run)
    dev = layouts.load(data, "dev")
    return artifact(checkpoint, out, dev, name=name, version=version, depth=depth, console=console)


def import_clip(
    model: str, weights: str | None, out: Path, data: Path | None, *, name: str, version: str, console: Console
) -> ModelManifest:
    """The same of a CLIP-class model as it is; ``model`` and ``weights`` as :func:`training.pretrained_clip.load` has
    them. Without ``data`` parity is checked on made-up pictures, and scores are what the model's own softmax says."""
    refuse(out)
    dev = layouts.load(data, "dev") if data is not None else None
    # There is no reranker to read tokens, so an item has next to none.
    towers, tokenizer = pretrained_clip.load(model, weights, token_dim=1, grid=1)
    source = {"model": pretrained_clip.named(model), "weights": pretrained_clip.named(weights)}
    checkpoint = Checkpoint(Diptych(towers), tokenizer, training={"clip": source})
    return artifact(checkpoint, out, dev, name=name, version=version, depth=1, console=console)


def refuse(out: Path) -> None:
    """Raises :class:`ArtifactError` for what is there already."""
    if out.exists():
        raise ArtifactError(f"{out} already exists; remove it or give another --out")


def artifact(
    checkpoint: Checkpoint,
    out: Path,
    dev: CaptionedImages | None,
    *,
    name: str,
    version: str,
    depth: int,
    console: Console,
    int8: bool = False,
) -> ModelManifest:
    """Write the artifact of ``checkpoint`` to ``out``, which appears only when it computes what the modules compute.

    Recalls and calibrations are those on ``dev``. ``int8``: as :func:`training.export.export` has it.
    """
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
                int8=int8,
            )
        pixels, texts = _sample(dev, manifest.preprocessing)
        parity = export.check_parity(beside, pixels, texts)
        console.print(f"parity with torch: {parity}", highlight=False)
        engine = OnnxEngine(beside)
        metrics: dict[str, Any]
        if dev is None:
            metrics = {"parity": parity}
            scoring = _unmeasured(engine, pixels, texts, float(checkpoint.model.towers.log_scale.detach().exp()))
        else:
            recalls, scoring = measured(engine, dev, depth, console)
            metrics = {"dev": {"parity": parity, **recalls}}
        manifest = manifest.model_copy(update={"scoring": scoring, "metrics": metrics})
        write_manifest(beside, manifest)
        beside.rename(out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return manifest


def _sample(dev: CaptionedImages | None, preprocessing: ImagePreprocessing) -> tuple[npt.NDArray[np.uint8], list[str]]:
    """Up to 64 photos with a caption each; without data, as many spots of colour as there are texts."""
    if dev is not None:
        sample = dev.images[:64]
        pixels = [images.pixels(image.path.read_bytes(), preprocessing) for image in sample]
        return np.stack(pixels), [image.captions[0] for image in sample]
    size = (preprocessing.size, preprocessing.size)
    spots = np.random.default_rng(0).integers(0, 256, (len(_THINGS), 8, 8, 3), np.uint8)
    return np.stack([np.asarray(Image.fromarray(one).resize(size)) for one in spots]), [
        f"a photo of a {thing}" for thing in _THINGS
    ]


def measured(engine: Engine, dev: CaptionedImages, depth: int, console: Console) -> tuple[dict[str, Any], Scoring]:
    """Recalls on dev: ``dual``, and ``cross`` if there is a reranker; and scores calibrated there."""
    split = evaluate.embed(engine, dev, console)
    found = evaluate.rerank(engine, split, depth, console) if engine.manifest.has_reranker else None
    scoring = evaluate.fit_scoring(split, found)
    figures: dict[str, Any] = {"dual": evaluate.figures(split.similarity, split.similarity, split.caption_image)}
    if found is not None:
        scores = evaluate.cross_scores(split, found, scoring)
        figures["cross"] = {"rerank_depth": depth, **evaluate.figures(*scores, split.caption_image)}
    return figures, scoring


def _unmeasured(engine: Engine, pixels: npt.NDArray[np.uint8], texts: list[str], scale: float) -> Scoring:
    """What the softmax that the model was trained with gives a pair among a thousand others that are no match:
    exp(s c) / (exp(s c) + 1000 mean(exp(s c'))) is a sigmoid of s c, with c' as of made-up pictures."""
    cosines = (engine.embed_images(pixels).embedding @ engine.embed_texts(texts).embedding.T).astype(np.float64)
    others = float(np.logaddexp.reduce(scale * cosines, axis=None)) - np.log(cosines.size / _ITEMS)
    return Scoring(dual=Calibration(scale=scale, bias=-float(others)))
