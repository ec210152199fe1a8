"""The report's page: its prose is in ``page.md``, its figures in the result files."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from training.report import dataset, failures, plots, recalls, smaller
from training.report.files import Results, load
from training.report.markdown import number, percent


def write(folder: Path, model: Path, page: Path) -> None:
    """Write ``page`` and, into ``folder``, its plots, from the result files of ``folder`` and the artifact ``model``.

    Equal files give an equal page, byte for byte. Raises :class:`ReportError`.
    """
    results = load(folder, model)
    template = Template(resources.files(__package__).joinpath("page.md").read_text(encoding="utf-8"))
    text = template.substitute(_figures(results), artifact_folder=model.name)
    plots.depth(folder / "depth.svg", results.files["depth"]["depths"])
    shipped = results.shipped
    plots.reliability(
        folder / "reliability.svg", {"dual": shipped.dual["reliability"], "cross": shipped.cross["reliability"]}
    )
    page.write_text(text, encoding="utf-8")


def _figures(results: Results) -> dict[str, str]:
    """What the page's placeholders stand for."""
    found, shipped, manifest = results.files, results.shipped, results.model
    depth, gallery, failed, data = (found[name] for name in ("depth", "gallery", "failures", "dataset"))
    names = [kind["cross"] for kind in gallery["names"].values()]
    name_misses = [miss for kind in names for miss in kind["misses"]]
    by_gender = {row["answer"]: row["cross_r1"] for row in failed["kinds"] if row["kind"] == "gender said"}
    train = data["splits"]["train"]
    towers, reranker = manifest.config["towers"], manifest.config["reranker"]
    text = towers["text"].get("bert") or towers["text"]
    seed_files = [f"seed-{seed.number}-{model}" for seed in results.seeds for model in ("dual", "cross")]
    shipped_files = [f"seed-{shipped.number}-{model}" for model in ("dual", "cross")]
    return {
        "artifact": manifest.ref,
        "fingerprint": manifest.fingerprint[:12],
        "split": shipped.dual["split"],
        "images": f"{shipped.dual['images']:,}",
        "captions": f"{shipped.dual['captions']:,}",
        "runtime": shipped.dual["runtime"],
        "depth": str(shipped.cross["rerank_depth"]),
        "headline": recalls.headline(results),
        "seed_count": f"{len(results.seeds)} seed{'s' if len(results.seeds) > 1 else ''}",
        "seeds": recalls.seeds(results.seeds),
        "from_seeds": _sources(results, *seed_files),
        "published": recalls.published(found["published"], shipped),
        "from_published": _sources(results, "published", *shipped_files),
        "depth_table": recalls.depth(depth["depths"]),
        "depth_says": _depth_says(depth),
        "cores": str(depth["cores"]),
        "from_depth": _sources(results, "depth"),
        "ece_dual": f"{shipped.dual['expected_calibration_error']:.3f}",
        "ece_cross": f"{shipped.cross['expected_calibration_error']:.3f}",
        "ece_held_out_dual": number(shipped.dual["held_out_calibration_error"]),
        "ece_held_out_cross": number(shipped.cross["held_out_calibration_error"]),
        "reliability_table": recalls.reliability(shipped.dual, shipped.cross),
        "from_reliability": _sources(results, *shipped_files),
        "gallery_photos": str(gallery["photos"]),
        "gallery_captions": str(gallery["captions"]),
        "point_imagenet": f"{100 / names[0]['names']:.0f}",
        "gallery_table": failures.gallery(gallery),
        "names_table": failures.names(gallery),
        "gallery_missed": str(len(gallery["misses"]["cross"])),
        "gallery_misses": failures.misses(gallery["misses"]["cross"]),
        "names_missed": str(len(name_misses)),
        "names_misses": failures.misses(name_misses),
        "from_gallery": _sources(results, "gallery"),
        "kinds_table": failures.kinds(failed["kinds"]),
        "ranks_table": failures.ranks(failed),
        "mends": str(failed["reranking"]["mends"]),
        "breaks": str(failed["reranking"]["breaks"]),
        "by_chance": f"{failures.sign_test(**failed['reranking']):.2g}",
        "hubs_table": failures.hubs(failed),
        "as_good_table": failures.as_good(failed),
        "worst_count": str(len(failed["worst"])),
        "worst": failures.worst(failed),
        "from_failures": _sources(results, "failures"),
        "ablations": recalls.ablations(found["ablations"]),
        "smaller": _smaller(results) + _eight_bits(results),
        "variants": _variants(results),
        "megabytes": f"{sum(entry.bytes for entry in manifest.files.values()) / 1e6:.0f}",
        "embedding_dim": str(manifest.embedding_dim),
        "backbone": towers["image"]["backbone"],
        "size": str(manifest.preprocessing.size),
        "looks": str(towers["image"]["looks"]),
        "text_kind": towers["text"]["kind"].upper(),
        "text_layers": str(text.get("num_hidden_layers", text.get("layers"))),
        "text_width": str(text.get("hidden_size", text.get("width"))),
        "reranker_layers": str(reranker["layers"]),
        "reranker_width": str(reranker["width"]),
        "max_length": str(manifest.tokenization.max_length),
        "train_images": f"{train['images']:,}",
        "train_captions": f"{train['captions']:,}",
        "male_only": percent(train["kinds"]["gender said"]["male only"]),
        "female_only": percent(train["kinds"]["gender said"]["female only"]),
        "male_r1": number(by_gender.get("male only")),
        "female_r1": number(by_gender.get("female only")),
        "absent": ", ".join(data["absent"]) or "nothing",
        "skipped": "; ".join(f"{count} {reason}" for reason, count in train["skipped"].items()) or "nothing",
        "dataset_table": f"{dataset.counts(data)}\n\n{_sources(results, 'dataset')}",
        "commonest": dataset.commonest(data),
        "files": _sources(results, *found),
    }


def _depth_says(found: dict[str, Any]) -> str:
    alone, *reranked = found["depths"]
    best = max(reranked, key=recalls.recall_sum)
    gained = recalls.recall_sum(best) - recalls.recall_sum(alone)
    return (
        f"Most is gained with {best['depth']} candidates: {gained:+.1f} to the sum of recalls,"
        f" {best['t2i']['r1'] - alone['t2i']['r1']:+.1f} and {best['i2t']['r1'] - alone['i2t']['r1']:+.1f} to R@1,"
        f" for {best['milliseconds']:.0f} ms a query."
    )


def _smaller(results: Results) -> str:
    distilled = results.distilled
    if not distilled:
        return ""
    files = [f"distil-{model}" for model in distilled]
    cores = results.files[files[0]]["cores"]
    return (
        "\n## A smaller image tower\n\n"
        "The shipped model distilled into one whose image tower is EfficientNet-Lite0, by"
        " [`distil.sh`](../training/recipes/distil.sh); text tower and reranker are the shipped model's. The time is"
        f" the median of the image tower for one photo, on {cores} CPU cores.\n\n"
        f"{recalls.smaller(results.shipped, distilled)}\n\n{_sources(results, *files)}\n"
    )


def _eight_bits(results: Results) -> str:
    """The section on what int8 costs and saves, as far as it was measured."""
    parts = [
        f"\n{words}\n\n{show(results.files[name])}\n\n{_sources(results, name)}\n"
        for name, words, show in (
            ("int8", smaller.TOWERS, smaller.towers),
            ("tokens", smaller.TOKENS, smaller.tokens),
        )
        if name in results.files
    ]
    return "".join(["\n## Eight bits\n", *parts]) if parts else ""


def _variants(results: Results) -> str:
    parts = [
        f"\n## {found.get('title', name)}\n\n{recalls.side_by_side(found)}\n\n{_sources(results, name)}\n"
        for name, found in results.variants.items()
    ]
    return "".join(parts)


def _sources(results: Results, *names: str) -> str:
    """One line for each file: what it is called, and how it was made."""
    return "\n".join(f"- [`{name}.json`](results/{name}.json): {_made(results.files[name])}" for name in names)


def _made(found: Any) -> str:
    if not isinstance(found, list):
        return f"`{found['command']}`"
    commits = dict.fromkeys(f"`git show {entry['commit']}`" for entry in found if entry.get("commit"))
    commands = dict.fromkeys(f"`{entry['command']}`" for entry in found if entry.get("command"))
    return "by hand from " + (", ".join([*commits, *commands]) or "the source named in each of its lines")
