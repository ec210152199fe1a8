"""The result files of a report: every one of them says how it was made, and all are about the same model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.artifacts import ArtifactError, ModelManifest, read_manifest

Figures = Mapping[str, Any]

# What `diptych measure` wrote, and what was copied by hand from commits and papers.
ABOUT_THE_MODEL = ("depth", "gallery", "failures")
REQUIRED = (*ABOUT_THE_MODEL, "dataset", "ablations", "published")
# What it costs to be smaller: shown where it was measured.
SMALLER = ("int8", "tokens")


class ReportError(Exception):
    """The report cannot be written. Says which file is missing, or does not fit the others, and what to do."""


@dataclass(frozen=True)
class Seed:
    """The figures of one training of both models, by ``diptych evaluate``."""

    number: int
    dual: Figures
    cross: Figures


@dataclass(frozen=True)
class Results:
    """``files``: name (without .json) to what it holds. ``seeds`` by number; ``shipped`` is the one in ``model``."""

    files: Mapping[str, Any]
    model: ModelManifest
    seeds: tuple[Seed, ...]

    @property
    def shipped(self) -> Seed:
        return next(seed for seed in self.seeds if seed.dual["fingerprint"] == self.model.fingerprint)

    @property
    def variants(self) -> Mapping[str, Figures]:
        """The files of other measurements: comparisons of ways to do the same, side by side."""
        known = (*REQUIRED, *SMALLER)
        return {
            name: found
            for name, found in self.files.items()
            if name not in known and not name.startswith(("seed-", "distil-"))
        }

    @property
    def distilled(self) -> Mapping[str, Figures]:
        """The figures of the model with the smaller image tower, as far as there are any, by ``dual`` and ``cross``."""
        models = {model: f"distil-{model}" for model in ("dual", "cross")}
        return {model: self.files[name] for model, name in models.items() if name in self.files}


def load(folder: Path, model: Path) -> Results:
    """All of ``folder``'s JSON files, and the manifest of the artifact ``model``. Raises :class:`ReportError`."""
    try:
        manifest = read_manifest(model)
    except ArtifactError as error:
        raise ReportError(str(error)) from error
    if not isinstance(manifest, ModelManifest):
        raise ReportError(f"{model} holds an {manifest.kind}, not a model")
    files = {path.stem: _read(path) for path in sorted(folder.glob("*.json"))}
    for name in REQUIRED:
        if name not in files:
            raise ReportError(f"{folder / name}.json is missing: make measure writes it")
    seeds = _seeds(folder, files)
    if all(seed.dual["fingerprint"] != manifest.fingerprint for seed in seeds):
        raise ReportError(f"no seed in {folder} is the model in {model}: evaluate it again (make measure)")
    for name in (*ABOUT_THE_MODEL, *SMALLER):
        if name in files and files[name]["fingerprint"] != manifest.fingerprint:
            raise ReportError(f"{folder / name}.json is about another model than {model}: measure again (make measure)")
    return Results(files, manifest, seeds)


def _read(path: Path) -> Any:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReportError(f"{path} cannot be read ({error}): measure again (make measure)") from error
    for entry in found if isinstance(found, list) else [found]:
        if not any(entry.get(origin) for origin in ("command", "commit", "source")):
            raise ReportError(f"{path} has figures without a command, a commit or a source: {str(entry)[:80]}")
    return found


def _seeds(folder: Path, files: Mapping[str, Any]) -> tuple[Seed, ...]:
    names = sorted({name.rsplit("-", 1)[0] for name in files if name.startswith("seed-")})
    seeds = []
    for name in names:
        for model in ("dual", "cross"):
            if f"{name}-{model}" not in files:
                raise ReportError(
                    f"{folder / name}-{model}.json is missing: diptych evaluate --model {model} writes it"
                )
        dual, cross = files[f"{name}-dual"], files[f"{name}-cross"]
        if dual["fingerprint"] != cross["fingerprint"]:
            raise ReportError(f"{name}-dual.json and {name}-cross.json are about different models: evaluate one again")
        seeds.append(Seed(int(name.removeprefix("seed-")), dual, cross))
    if not seeds:
        raise ReportError(f"{folder} has no seed-0-dual.json and seed-0-cross.json: diptych evaluate writes them")
    for what in ("split", "images", "captions"):
        if len(told := {str(seed.dual[what]) for seed in seeds}) > 1:
            raise ReportError(f"the seeds were evaluated on different data ({what}: {', '.join(sorted(told))})")
    if len({seed.dual["fingerprint"] for seed in seeds}) < len(seeds):
        raise ReportError("two seeds are the same model: evaluate the other training (training/recipes/seeds.sh)")
    return tuple(seeds)
