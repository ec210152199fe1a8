"""The gallery and the failures as tables."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from math import comb

from training.report.files import Figures
from training.report.markdown import percent, table
from training.report.recalls import HEAD, six


def gallery(found: Figures) -> str:
    rows = [[model, *six(found[model]), _examples(found["examples"][model])] for model in ("dual", "cross")]
    return table(["", *HEAD, "examples right at once"], rows)


def names(found: Figures) -> str:
    titles = {"imagenet": "names of ImageNet's classes", "other": "other names"}
    rows = [
        [title, found["names"][kind]["dual"]["names"]]
        + [f"{found['names'][kind][model][k]:.1f}" for model in ("dual", "cross") for k in ("r1", "r5")]
        for kind, title in titles.items()
    ]
    return table(["", "names", "dual R@1", "R@5", "cross R@1", "R@5"], rows)


def misses(entries: Sequence[Figures]) -> str:
    rows = [[entry["text"], ", ".join(entry["photos"]), entry["first"], entry["rank"]] for entry in entries]
    return table(["asked for", "right", "first", "rank of the right one"], rows, left=3)


def kinds(rows: Sequence[Figures]) -> str:
    cells = []
    for kind, group in groupby(rows, key=lambda row: row["kind"]):
        for number, row in enumerate(group):
            recalls = [f"{row['dual_r1']:.1f}", f"{row['cross_r1']:.1f}"]
            cells.append(["" if number else kind, row["answer"], f"{row['captions']:,}", *recalls])
    return table(["the caption", "", "captions", "dual R@1", "cross R@1"], cells, left=2)


def ranks(found: Figures) -> str:
    titles = {
        "first": "first",
        "2_to_5": "2 to 5",
        "6_to_10": "6 to 10",
        "11_to_depth": f"11 to {found['rerank_depth']}",
    }
    titles["beyond"] = f"after {found['rerank_depth']}"
    rows = [[model, *(f"{found['ranks'][model][key]:.1f} %" for key in titles)] for model in ("dual", "cross")]
    return table(["place of the right photo", *titles.values()], rows)


def sign_test(mends: int, breaks: int) -> float:
    """How likely a split at least as uneven is, were each of the changed answers mended or broken by the toss of a
    coin: McNemar's test, exact and two-sided."""
    changed, fewer = mends + breaks, min(mends, breaks)
    return min(1.0, 2 * sum(comb(changed, n) for n in range(fewer + 1)) / (1 << changed))


def hubs(found: Figures) -> str:
    titles = {
        "wrong_firsts": "captions with a wrong first photo",
        "most_of_one_photo": "of these, with the worst hub first",
        "photos_never_wrongly_first": "photos never wrongly first",
    }
    rows = [
        [title, *(f"{found['hubs'][model][key]:,}" for model in ("dual", "cross"))] for key, title in titles.items()
    ]
    share = [percent(found["hubs"][model]["share_of_worst_hundredth"]) for model in ("dual", "cross")]
    rows.append(["wrong first places that the worst hundredth of the photos takes", *share])
    rows.append(["skewness", *(f"{found['hubs'][model]['skewness']:.2f}" for model in ("dual", "cross"))])
    return table(["", "dual", "cross"], rows)


def as_good(found: Figures) -> str:
    rows = [
        [f"by the {way}", percent(shares["returned"]), percent(shares["by_chance"])]
        for way, shares in found["as_good"].items()
    ]
    return table(["a caption nearer than all of its own photo's", "photo returned", "photo by chance"], rows)


def worst(found: Figures) -> str:
    return ", ".join(f"`{entry['photo']}` ({entry['rank']})" for entry in found["worst"])


def _examples(found: Figures) -> str:
    return f"{found['queries'] - len(found['misses'])} of {found['queries']}"
