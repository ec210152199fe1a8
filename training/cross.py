"""Train the cross-attention reranker on the token features of a finished dual encoder, against hard negatives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from shared.artifacts import ImagePreprocessing
from shared.models import DualEncoder, Reranker, RerankerConfig
from training import photos
from training.captions import Captions, map_by_length
from training.checkpoint import Checkpoint, CheckpointError, describe
from training.data import layouts
from training.data.captioned import CaptionedImages
from training.distributed import World, world
from training.losses import contrast, matching_loss
from training.metrics import DirectionMetrics, image_to_text_ranks, text_to_image_ranks
from training.trainer import Batch, Metrics, Schedule, Trainer, identity, parameter_groups, quality

Float16 = npt.NDArray[np.float16]
Int64 = npt.NDArray[np.int64]
_WEIGHTS = (40.0, 80.0, 160.0)
_BELOW = 1e6


@dataclass(frozen=True)
class CrossOptions:
    """``embed_dim`` is the reranker's width. ``negatives`` per list come from the ``hardest`` nearest wrong items; the
    very nearest captions mostly fit the photo too, so that few of many are better than all of few. ``grid_dropout`` is
    that of the backbone's features, of which there are many for few photos; so are ``views``, the first of the dual
    encoder's."""

    data: Path
    dual: Path
    out: Path
    epochs: int = 6
    batch_size: int = 48
    lr: float = 1e-3
    embed_dim: int = 128
    layers: int = 2
    device: str = "auto"
    warmup: int = 60
    weight_decay: float = 0.05
    negatives: int = 4
    hardest: int = 300
    views: int = 2
    dropout: float = 0.1
    grid_dropout: float = 0.3
    seed: int = 0
    amp: bool | None = None


def train(options: CrossOptions, console: Console) -> Metrics:
    """Run the job; leave a checkpoint of towers and reranker in ``out``, ready to export."""
    if options.out.resolve() == options.dual.resolve():
        raise CheckpointError("--out must be another folder than --dual: the dual encoder's run is kept as it is")
    with world(options.device) as peers:
        return _train(options, peers, console)


@dataclass(frozen=True)
class _Features:
    """A split as the frozen towers see it. ``grids`` (photos, views, N, C) and ``words`` (captions, T, W) are what the
    token projections take, ``similarity`` (photos, captions) the dual encoder's cosines."""

    captions: Captions
    grids: Float16
    words: Float16
    similarity: npt.NDArray[np.float32]

    def seen(self, images: Int64, views: Int64, device: torch.device) -> Tensor:
        """(B, N, C)."""
        return photos.to_tensor(self.grids[images, views], device).float()

    def read(self, captions: Int64, device: torch.device) -> tuple[Tensor, Tensor]:
        """(B, T, W) and a mask (B, T), cut to the longest of them."""
        mask = self.captions.mask[captions]
        longest = int(mask.sum(axis=1).max())
        words = photos.to_tensor(self.words[captions, :longest], device).float()
        return words, torch.from_numpy(mask[:, :longest] > 0).to(device)


def _train(options: CrossOptions, peers: World, console: Console) -> Metrics:
    checkpoint = Checkpoint.load(options.dual)
    towers = checkpoint.model.towers.to(peers.device).eval()
    heads = (4, 8, 2, 1)
    torch.manual_seed(options.seed)
    reranker = Reranker(
        RerankerConfig(
            token_dim=towers.config.token_dim,
            width=options.embed_dim,
            layers=options.layers,
            heads=next(h for h in heads if options.embed_dim % h == 0),
            dropout=options.dropout,
        )
    )
    # The dual encoder's run has decoded the photos, and computed their features if its backbone was frozen.
    cache = options.dual / ("cache" if peers.size == 1 else f"cache-{peers.rank}")
    data, dev = (layouts.load(options.data, split) for split in ("train", "dev"))
    if min(options.batch_size, len(data) - 1) < peers.size:
        raise ValueError(
            f"{len(data)} photos in batches of {options.batch_size} are too few for {peers.size} processes: each needs "
            "one in every batch, and one more is needed as a wrong answer"
        )
    kept = checkpoint.training["dual"]["views"]
    train_set = _features(checkpoint, data, min(options.views, kept), kept, cache, peers, console)
    dev_set = _features(checkpoint, dev, 1, 2 * towers.image.looks - 1, cache, peers, console)
    images_for, captions_for = hardest(train_set.similarity, train_set.captions.image, options.hardest)
    negatives = min(options.negatives, images_for.shape[1], captions_for.shape[1])
    objective = _Objective(towers, reranker, options.grid_dropout)
    objective.centre(train_set, peers.device)
    sided = np.logical_or.reduceat(train_set.captions.sided, train_set.captions.first[:-1])

    def loss(model: nn.Module, batch: Batch, rng: np.random.Generator) -> Tensor:
        rows = np.asarray(batch)
        caption = train_set.captions.draw(rows, 1, rng)[:, 0]  # (B,)
        wrong_images = _draw(images_for[caption], negatives, rng)  # (B, M)
        wrong_captions = _draw(captions_for[rows], negatives, rng)  # (B, M)
        lists = negatives + 1
        images, image = np.unique(
            np.concatenate([np.column_stack([rows, wrong_images]).ravel(), np.repeat(rows, lists)]), return_inverse=True
        )
        texts, text = np.unique(
            np.concatenate([np.repeat(caption, lists), np.column_stack([caption, wrong_captions]).ravel()]),
            return_inverse=True,
        )
        views = rng.integers(train_set.grids.shape[1], size=len(images))
        views[sided[images]] -= views[sided[images]] % 2
        words, mask = train_set.read(texts, peers.device)
        logits, every = model(
            train_set.seen(images, views, peers.device), words, mask, torch.from_numpy(image), torch.from_numpy(text)
        )
        match = torch.from_numpy(train_set.captions.image[texts][:, None] == images[None]).to(peers.device)
        return matching_loss(logits.view(-1, lists).float()) + contrast(every.float(), match)

    def evaluate() -> Metrics:
        return _dev_recalls(objective, dev_set, 10, peers.device)

    trainer = Trainer(
        objective,
        parameter_groups(objective, options.lr, options.weight_decay),
        Schedule(options.epochs, options.warmup, amp=peers.amp(options.amp), seed=options.seed),
        peers,
        options.out,
        identity(options),
        console,
    )
    best = trainer.fit(peers.batches(len(data), options.batch_size, options.seed), loss, evaluate, quality)
    if peers.leads:
        checkpoint.model.reranker = reranker
        checkpoint.metrics["cross"] = best
        checkpoint.training["cross"] = describe(options)
        checkpoint.save(options.out)
        console.print(f"best epoch on dev: {best}\nwritten to {options.out}", highlight=False)
    return best


def hardest(similarity: npt.NDArray[np.float32], caption_image: Int64, count: int) -> tuple[Int64, Int64]:
    """The nearest wrong photos of each caption (captions, count) and the nearest wrong captions of each photo
    (photos, count), by the dual encoder's cosine. A photo's own captions are never among them."""
    photos_n, captions_n = similarity.shape
    k_images = min(count, photos_n - 1)
    k_captions = min(count, captions_n - int(np.bincount(caption_image).max()))
    masked = similarity.copy()
    masked[caption_image, np.arange(captions_n)] = -np.inf
    images = np.argpartition(-masked, k_images - 1, axis=0)[:k_images].T
    captions = np.argpartition(-masked, k_captions - 1, axis=1)[:, :k_captions]
    return np.ascontiguousarray(images), captions


class _Objective(nn.Module):
    """The trained parts: both token projections and the reranker."""

    def __init__(self, towers: DualEncoder, reranker: Reranker, grid_dropout: float) -> None:
        super().__init__()
        self.image_tokens = towers.image.token_projection.requires_grad_(True)
        self.grid_dropout = nn.Dropout(grid_dropout)
        self.text_tokens = towers.text.token_projection.requires_grad_(True)
        self.reranker = reranker

    def forward(self, grids: Tensor, words: Tensor, mask: Tensor, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Grids (I, N, C), words (S, T, W) with a mask (S, T), and the pairs to judge as rows of them, (P,) each ->
        logits (P,), and late interaction of every text with every image (S, I)."""
        normalise, project = self.image_tokens
        places, tokens = project(self.grid_dropout(normalise(grids))), self.text_tokens(words)
        return self.judge(places, tokens, mask, image, text), self.reranker.late.every(tokens, mask, places)

    def judge(self, places: Tensor, tokens: Tensor, mask: Tensor, image: Tensor, text: Tensor) -> Tensor:
        """Image tokens (I, N, d), text tokens (S, T, d) with a mask, pairs as rows of them (P,) each -> (P,)."""

        def score(rows: Tensor, longest: int) -> Tensor:
            mine = text[rows]
            logits: Tensor = self.reranker(tokens[mine, :longest], mask[mine, :longest], places[image[rows]])
            return logits

        return map_by_length(score, mask[text], 96)

    @torch.no_grad()
    def centre(self, train_set: _Features, device: torch.device) -> None:
        """Set the matching head's bias so that the logits of true pairs start around zero."""
        self.to(device)
        own = train_set.captions.first[: min(256, len(train_set.grids))]
        grids = train_set.seen(np.arange(len(own)), np.zeros(len(own), np.int64), device)
        words, mask = train_set.read(own, device)
        self.reranker.match.bias.fill_(
            -self.reranker.late(self.text_tokens(words), mask, self.image_tokens(grids)).mean()
        )


def _draw(candidates: Int64, count: int, rng: np.random.Generator) -> Int64:
    """``count`` different columns of each row."""
    columns = rng.random(candidates.shape).argsort(axis=1)[:, :count]
    return np.take_along_axis(candidates, columns, axis=1)


@torch.inference_mode()
def _features(
    checkpoint: Checkpoint, data: CaptionedImages, views: int, kept: int, cache: Path, peers: World, console: Console
) -> _Features:
    """Grids of the first ``views`` of the ``kept`` ones."""
    towers, device = checkpoint.model.towers, peers.device
    config = towers.config.image
    captions = Captions.of(data, checkpoint.tokenizer, towers.config.text.max_length)
    pixels = photos.load(data, ImagePreprocessing(size=config.size, mean=config.mean, std=config.std), cache, console)
    frozen, trained = photos.divide(towers, checkpoint.training["dual"]["train_blocks"])
    seen = photos.Seen.of(towers, frozen, pixels, kept, cache, device, console)
    grids = np.zeros((len(data), views, towers.image.side**2, towers.image.backbone.channels), np.float16)
    words = np.zeros((*captions.ids.shape, towers.text.encoder.width), np.float16)
    image_vectors = torch.zeros(len(data), towers.config.embedding_dim)
    text_vectors = torch.zeros(len(captions.texts), towers.config.embedding_dim)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        for start in track(range(0, len(data), 64), "photos through the tower", console=console):
            rows = np.arange(start, min(start + 64, len(data)))
            features = []
            for view in sorted({*range(views), *seen.looks}):
                grid, feature = towers.see(seen.view(rows, view), trained)
                if view < views:
                    grids[rows, view] = grid.float().cpu().numpy()
                if view in seen.looks:
                    features.append(feature)
            vectors = towers.photo_vectors(towers.image.embed(torch.stack(features).mean(dim=0)))
            image_vectors[rows] = vectors.float().cpu()
        by_length = captions.mask.sum(axis=1).argsort(kind="stable")
        for start in track(range(0, len(by_length), 256), "captions through the tower", console=console):
            chosen = by_length[start : start + 256]
            ids, mask = captions.batch(chosen, device)
            hidden, vectors = towers.read(ids, mask)
            words[chosen, : ids.shape[1]] = hidden.float().cpu().numpy()
            text_vectors[torch.from_numpy(chosen)] = vectors.float().cpu()
    return _Features(captions, grids, words, (image_vectors @ text_vectors.T).numpy())


@torch.inference_mode()
def _dev_recalls(objective: _Objective, dev: _Features, depth: int, device: torch.device) -> Metrics:
    """Recall@1 with the dual encoder's best ``depth`` reranked, one caption in five asked, both ways, at the weight of
    the similarity that is best for it; export weighs it again."""
    own = dev.captions.image
    asked = dev.captions.first[:-1]
    depth = min(depth, *dev.similarity.shape)
    words, mask = dev.read(np.arange(len(own)), device)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        rows = np.arange(len(dev.grids))
        places = torch.cat(
            [
                objective.image_tokens(dev.seen(part, np.zeros_like(part), device))
                for part in np.array_split(rows, -(-len(rows) // 100))
            ]
        )
        tokens = objective.text_tokens(words)

    def judge(image: Int64, text: Int64) -> npt.NDArray[np.float32]:
        logits = []
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            for start in range(0, len(image), 1000):
                part = slice(start, start + 1000)
                pairs = (torch.from_numpy(side[part]).to(device) for side in (image, text))
                logits.append(objective.judge(places, tokens, mask, *pairs).float().cpu().numpy())
        return np.concatenate(logits)

    found_images = np.argsort(-dev.similarity[:, asked], axis=0)[:depth].T.ravel()  # (asked * depth,)
    columns = np.repeat(np.arange(len(asked)), depth)
    found_texts = np.argsort(-dev.similarity, axis=1)[:, :depth].ravel()  # (photos * depth,)
    rows = np.repeat(np.arange(len(dev.grids)), depth)
    of_images, of_texts = judge(found_images, asked[columns]), judge(rows, found_texts)

    def recalls(weight: float) -> Metrics:
        t2i, i2t = dev.similarity[:, asked] - _BELOW, dev.similarity - _BELOW
        t2i[found_images, columns] = of_images + weight * dev.similarity[found_images, asked[columns]]
        i2t[rows, found_texts] = of_texts + weight * dev.similarity[rows, found_texts]
        return {
            "t2i_r1": DirectionMetrics.from_ranks(text_to_image_ranks(t2i, own[asked])).r1,
            "i2t_r1": DirectionMetrics.from_ranks(image_to_text_ranks(i2t, own)).r1,
        }

    return max((recalls(weight) for weight in _WEIGHTS), key=quality)
