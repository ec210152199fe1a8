"""The page: its sections, as far as there are result files for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.report import plots, tables
from benchmarks.report.files import Figures, Files, load
from benchmarks.report.goals import SCALE, added_ms, goals
from training.report.markdown import table

_HEAD = """# Performance

This page is written by `python -m benchmarks page` (`make performance`) from the files in [`{folder}/`]({folder});
no figure on it was typed by hand. Under each table is the file that it shows and the command that writes that file.
`make bench`, `make overload`, `make soak` and `make chaos` run all of them. Parts measured on different days may have
seen a machine in different moods; figures that are compared with each other come from one run of one part.

The services are the shipped ones with the shipped model, started as `diptych up` starts them, with its settings. The
collection is made: {images} photos with five captions each, random vectors and tokens of the model's real shapes, and
noisy JPEGs of 500 x 375 pixels as photos. The load comes out of another process **on the same cores**. Closed loops:
each caller waits for its answer and asks again at once. Uncached questions were never asked before.
"""
_SECTIONS: dict[str, tuple[str, str]] = {
    "gateway": (
        "The whole path",
        "*One process* does the same work with no services, no HTTP and no cache, taking all callers' questions as"
        " one batch. The *seed's design* is one synchronous process: a query alone, a product with the whole matrix,"
        " and the candidates' photos or captions encoded again to be reranked.",
    ),
    "encoder": (
        "The encoder",
        "The bare engine is called in one process, batch after batch: *image* from pixels, *image file* with the"
        " decoding of JPEGs in two threads, as the service does it.",
    ),
    "infinity": (
        "Beside infinity",
        "[infinity](https://github.com/michaelfeil/infinity) serves the same MiniLM weights by its ONNX engine; our"
        " text tower is that MiniLM, fine-tuned, with two heads on it. Both ran all the time, and were asked in turn."
        " *Batch* is how many texts were in one request.",
    ),
    "replicas": (
        "Encoder replicas",
        "Each encoder does one thing at a time and takes 20 ms for it, so that what is measured is how the gateway"
        " spreads the work, on any machine.",
    ),
    "rerank": ("Reranking", ""),
    "index": (
        "The index",
        "Queries a second of 512 dimensions for 10 results, *batch* of them in a request. Raw FAISS gives"
        " numbers of rows; the service also reads what is stored about each result.",
    ),
    "live": ("The index while it changes", ""),
    "scale": (
        "A collection that grows",
        "Vectors of the model's real embeddings, between neighbours and with noise of their own shape; the queries are"
        " held out, and recall is against exact search. Each kind was tuned by other queries as `diptych index build`"
        " does it. *Raw FAISS* is the same index at the same effort without the vectors that refine its answer.",
    ),
    "start": ("Cold start and memory", ""),
    "overload": (
        "Overload",
        "Requests come at random moments, ten times as many as were answered at the peak, whether or not anything"
        " answers. A refusal is well-formed when it is `application/problem+json` with `Retry-After`.",
    ),
    "soak": ("Soak", ""),
    "chaos": (
        "Kills",
        "The index service is killed (`SIGKILL`) at random moments while eight callers put photos in, replace and"
        " remove them; half of the times bytes are torn into its log. After each start every photo is read back.",
    ),
}


def write(folder: Path, page: Path) -> None:
    """Write ``page`` and, into ``folder``, its plots, from the result files of ``folder``.

    Equal files give an equal page, byte for byte. Raises :class:`ReportError`.
    """
    files = load(folder)
    images = next((f"{found['images']:,}" for found in files.values() if "images" in found), "8,000")
    parts = [_HEAD.format(folder=folder.name, images=images), _machines(files)]
    if found := goals(files):
        parts.append(f"## What was wanted\n\n{tables.goals(found)}\n")
    makers: dict[str, Callable[[Path, Figures], str]] = {
        "gateway": _gateway,
        "replicas": _replicas,
        "encoder": _encoder,
        "rerank": _rerank,
        "live": _live,
        "scale": _scale,
        "start": _start,
        "overload": _overload,
        "soak": _soak,
        "chaos": _chaos,
    }
    for name, (title, words) in _SECTIONS.items():
        said = f"{words}\n\n" if words else ""
        for file in _of(name, files):
            body = makers.get(name, _points)(folder, files[file])
            of = f": {files[file]['items']:,} items" if name == "scale" else ""
            parts.append(f"## {title}{of}\n\n{said}{body}\n\n{_source(folder, file, files[file])}\n")
    page.write_text("\n".join(parts), encoding="utf-8")


def _of(section: str, files: Files) -> list[str]:
    """The files of a section: one, or one for each size."""
    if section == "scale":
        return sorted((name for name in files if name.startswith(SCALE)), key=lambda name: int(files[name]["items"]))
    return [section] if section in files else []


def _machines(files: Files) -> str:
    """One table a machine: most often there is one."""
    seen: dict[str, tuple[Figures, list[str]]] = {}
    for name, found in files.items():
        seen.setdefault(repr(found["machine"]), (found["machine"], []))[1].append(name)
    text = "## The machine\n"
    for machine, names in seen.values():
        versions = ", ".join(f"{package} {version}" for package, version in machine["versions"].items())
        rows: list[list[Any]] = [
            ["CPU", machine["cpu"]],
            ["cores", machine["cores"]],
            ["memory", f"{machine['memory_gb']:g} GB"],
            ["system", machine["system"]],
            ["Python", machine["python"]],
            ["packages", versions],
        ]
        if len(seen) > 1:
            rows.append(["measured on it", ", ".join(names)])
        text += f"\n{table(['', ''], rows, left=2)}\n"
    return text


def _replicas(_folder: Path, found: Figures) -> str:
    return tables.replicas(found["points"])


def _points(_folder: Path, found: Figures) -> str:
    batched = any(point.get("batch", 1) != 1 for point in found["points"])
    return _with_memory(tables.points(found["points"], each="queries" if batched else "answers"), found)


def _gateway(folder: Path, found: Figures) -> str:
    plots.gateway(folder / "gateway.svg", found["points"])
    about = "Answers a second against callers for both directions and models; the figures are those of the table below."
    return _with_memory(f"![{about}]({folder.name}/gateway.svg)\n\n{tables.points(found['points'])}", found)


def _encoder(folder: Path, found: Figures) -> str:
    plots.batches(folder / "encoder.svg", found["points"])
    about = "Images and texts a second, by the bare engine and over HTTP; the figures are those of the table below."
    return _with_memory(f"![{about}]({folder.name}/encoder.svg)\n\n{tables.points(found['points'])}", found)


def _rerank(_folder: Path, found: Figures) -> str:
    added = added_ms(found)
    alone, n = found["bare_engine"], found["candidates"]
    said = "" if added is None else f"Reranking {n} candidates adds {added:.1f} ms to the median of one caller. "
    said += (
        f"The bare engine takes {alone['rerank_ms']:.1f} ms for it; to embed the {n} photos again, as a system without"
        f" stored tokens has to, it takes {alone['embed_again_ms']:,.0f} ms."
    )
    return f"{said}\n\n{tables.points(found['points'])}"


def _live(_folder: Path, found: Figures) -> str:
    said = (
        f"{found['added']:,} photos were put in, one a request, {found['added_per_second']:,.0f} a second, while"
        f" {found['searches_meanwhile']:,} searches were answered; {found['add_failures']} changes and"
        f" {found['search_failures']} searches failed. Afterwards recall at 10 against exact search was"
        f" {found['recall_at_10']:.4f}, and among {found['items']:,} items:"
    )
    return _with_memory(f"{said}\n\n{tables.points(found['points'], each='queries')}", found)


def _scale(folder: Path, found: Figures) -> str:
    plot = f"{SCALE}{found['items']}.svg"
    plots.scale(folder / plot, found["points"], found["target"])
    about = "Recall at 10 against queries a second in batches; the figures are those of the table below."
    made = f"{found['items']:,} items, made of {found['source']}, tuned to a recall of {found['target']:g}."
    return f"{made}\n\n![{about}]({folder.name}/{plot})\n\n{tables.scale(found['points'])}"


def _start(_folder: Path, found: Figures) -> str:
    said = f"Median of {found['times']} starts of each service with the collection of {found['images']:,} photos."
    return (
        f"{said}\n\n{tables.seconds(found)}\n\nResident memory of `diptych up` on the gallery, when it is ready:\n\n"
        f"{tables.memory(found['up_memory'])}"
    )


def _overload(folder: Path, found: Figures) -> str:
    plots.overload(folder / "overload.svg", found["overloads"])
    about = "Answers in each second of the overload, as a share of the peak."
    return f"![{about}]({folder.name}/overload.svg)\n\n{tables.overloads(found['overloads'])}"


def _soak(folder: Path, found: Figures) -> str:
    plots.soak(folder / "soak.svg", found)
    about = "Resident memory of each process over the minutes; its growth after the warm-up is in the table below."
    grown = tables.slopes(found["slopes_mb_per_minute"])
    return f"![{about}]({folder.name}/soak.svg)\n\n{tables.points(found['points'])}\n\n{grown}"


def _chaos(_folder: Path, found: Figures) -> str:
    names = {
        "kills": "kills",
        "acknowledged changes": "acknowledged",
        "lost": "lost",
        "phantoms": "phantoms",
        "failed starts": "failed_starts",
        "slowest start, seconds": "slowest_start_seconds",
    }
    values = [found[name] for name in names.values()]
    rows = [[name, len(value) if isinstance(value, list) else value] for name, value in zip(names, values, strict=True)]
    return table(["", ""], rows)


def _with_memory(text: str, found: Figures) -> str:
    if "memory" not in found:
        return text
    return f"{text}\n\nMemory of the processes after it:\n\n{tables.memory(found['memory'])}"


def _source(folder: Path, name: str, found: Figures) -> str:
    return f"- [`{name}.json`]({folder.name}/{name}.json), {found['measured']}: `{found['command']}`"
