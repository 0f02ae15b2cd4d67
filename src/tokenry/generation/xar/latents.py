"""Latents with their classes: images are encoded once, into safetensors shards, and read from there row by row.

A shard holds `latents` (n, channels, height, width) and `labels` (n,); its metadata say of what. Pixels are latents too: (2 ink − 1).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import Dataset

from tokenry.core.errors import UserError
from tokenry.core.io.files import atomic_write
from tokenry.core.io.images import ImageFile, find_images, is_grey, read_square
from tokenry.core.io.progress import Progress
from tokenry.core.io.workspace import Workspace, fingerprint

SHARD = "latents-{:05d}.safetensors"
_ROWS, _BATCH, _LOOKED_AT = 4096, 32, 2048
_NARROWEST, _WIDEST = 0.35, 2.5
_NO_GRID = "latents (n, channels, height, width) and labels (n,)"


@dataclass(frozen=True)
class LatentSource:
    """Where latents come from, and so how they are made visible.

    Attributes:
        kind: pixels, vae or latents.
        classes: names of the classes.
        vae: folder of the autoencoder, where there is one.
        shift: what is taken from the autoencoder's latents.
        scale: what they are then multiplied by, so that they vary as much as the noise.
        crop: side of the squares that images were cut and resized to.
    """

    kind: str
    classes: tuple[str, ...]
    vae: str | None = None
    shift: float = 0.0
    scale: float = 1.0
    crop: int | None = None

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> "LatentSource":
        """As `asdict` wrote it."""
        return cls(**{**stored, "classes": tuple(stored["classes"])})

    @property
    def preparation(self) -> str:
        """Crop and size of the images in words."""
        if self.kind == "latents":
            return "latents as given"
        return "images as they are" if self.crop is None else f"middle square, {self.crop} × {self.crop} px"


class LatentRows(Dataset):
    """Rows of shards, read one by one when they are asked for.

    Attributes:
        source: what they are latents of.
        shape: channels, height and width.
        labels: the class of each row.
    """

    def __init__(self, path: Path, scale: float | None = None) -> None:
        files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
        if not files:
            raise UserError(f"{path} holds neither images nor .safetensors files with {_NO_GRID}.")
        self._opened, labels, shapes, sources = [], [], [], []
        for file in files:
            opened, row_labels, shape, source = _open(file)
            self._opened.append(opened)
            labels.append(row_labels)
            shapes.append(shape)
            sources.append(source)
        if len(set(shapes)) > 1:
            other = next(number for number, shape in enumerate(shapes) if shape != shapes[0])
            raise UserError(
                f"{files[0].name} has latents of {_written(shapes[0])} and {files[other].name} of {_written(shapes[other])}: one model takes "
                "one shape."
            )
        self.shape, self.labels = shapes[0], torch.cat(labels)
        self._ends = np.cumsum([len(part) for part in labels])
        named = [source for source in sources if source is not None]
        classes = tuple(str(number) for number in range(int(self.labels.max()) + 1))
        self.source = named[0] if named else LatentSource("latents", classes)
        self._scale = 1.0
        if scale is not None and self.source.kind == "latents":
            self._scale = scale
            self.source = LatentSource("latents", self.source.classes, scale=scale)
        if int(self.labels.max()) >= len(self.source.classes) or int(self.labels.min()) < 0:
            raise UserError(
                f"{path} has labels from {int(self.labels.min())} to {int(self.labels.max())} and {len(self.source.classes)} classes: they "
                "must be from 0."
            )
        self._require_unit_scale(path)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {"latents": self.latents([row])[0], "class_labels": self.labels[row]}

    def latents(self, rows: Sequence[int]) -> Float[Tensor, "rows channels height width"]:
        """The latents of some rows, scaled."""
        found = []
        for row in rows:
            shard = int(np.searchsorted(self._ends, row, side="right"))
            inside = row - (int(self._ends[shard - 1]) if shard else 0)
            found.append(self._opened[shard].get_slice("latents")[inside : inside + 1][0].float())
        return torch.stack(found) * self._scale

    def spread(self, limit: int = _LOOKED_AT) -> list[int]:
        """At most `limit` rows at equal distances."""
        return np.linspace(0, len(self) - 1, min(limit, len(self))).round().astype(int).tolist()

    def _require_unit_scale(self, path: Path) -> None:
        values = self.latents(self.spread())
        if not values.isfinite().all():
            raise UserError(f"{path} holds values that are not finite: encode again, in float32.")
        std = float(values.std())
        if not _NARROWEST <= std <= _WIDEST:
            told = (
                f"multiply them by {1 / std:.4g} (--scale {self._scale / std:.4g})"
                if std > 0
                else "they do not vary"
            )
            raise UserError(
                f"the latents of {path} have a standard deviation of {std:.4g}, and the noise one of 1: {told}."
            )


def _open(file: Path) -> tuple[Any, Tensor, tuple[int, ...], LatentSource | None]:
    try:
        opened = safe_open(file, framework="pt")
        if missing := {"latents", "labels"} - set(opened.keys()):
            raise UserError(f"{file} has no tensor {min(missing)!r}: a file of latents holds {_NO_GRID}.")
        shape = tuple(opened.get_slice("latents").get_shape())
        labels = opened.get_tensor("labels").long()
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} cannot be read ({error}): remove it to encode again.") from error
    if len(shape) != 4 or labels.shape != shape[:1] or not len(labels):
        raise UserError(
            f"{file} has latents of {_written(shape)} and labels of {_written(tuple(labels.shape))}: it must hold {_NO_GRID}."
        )
    told = (opened.metadata() or {}).get("source")
    return opened, labels, shape[1:], None if told is None else LatentSource.read(json.loads(told))


def _written(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))


def read_latents(
    data: Path,
    output: Path,
    vae: Path | None,
    crop: int | None,
    scale: float | None,
    device: torch.device,
    progress: Progress,
) -> LatentRows:
    """Open latents, or encode images into a folder first; shards that are there already are not encoded again.

    Raises:
        UserError: nothing that can be read, images of several sizes, or a folder of other images' latents.
    """
    if data.is_file() or (data.is_dir() and any(data.glob("*.safetensors"))):
        if vae is not None:
            raise UserError(f"{data} holds latents already: leave the autoencoder (--vae) out.")
        return LatentRows(data, scale)
    files = find_images(data)
    classes = sorted({_class_of(file) for file in files})
    coder = Coder(None if vae is None else str(vae), device)
    source = replace(coder.source(tuple(classes), scale), crop=crop)
    settings = {
        "images": fingerprint([(file.name, file.path.stat().st_size) for file in files]),
        **asdict(source),
    }
    Workspace(output, settings, "latents.json").claim(
        f"{output} holds the latents of other images, or of another autoencoder or crop: name a new folder."
    )
    starts = range(0, len(files), _ROWS)
    for number, start in enumerate(starts):
        shard = output / SHARD.format(number)
        if not shard.exists():
            progress(f"encoding images, shard {number + 1} of {len(starts)}", number / len(starts))
            _encode(files[start : start + _ROWS], shard, coder, source, files[0])
    return LatentRows(output)


def _encode(
    files: Sequence[ImageFile],
    shard: Path,
    coder: "Coder",
    source: LatentSource,
    first: ImageFile,
) -> None:
    latents, size, channels = [], None, 3
    if source.kind == "pixels":
        channels = 1 if all(is_grey(file.path) for file in files) else 3
    for start in range(0, len(files), _BATCH):
        batch = []
        for file in files[start : start + _BATCH]:
            image = read_square(file.path, source.crop, "L" if channels == 1 else "RGB")
            size = size or read_square(first.path, source.crop, "L").size
            if image.size != size:
                raise UserError(
                    f"{first.name} is {size[0]} × {size[1]} and {file.name} {image.size[0]} × {image.size[1]}: one model takes one size; "
                    "--crop 256 cuts all to squares."
                )
            pixels = np.asarray(image, dtype=np.float32).reshape(size[1], size[0], channels)
            batch.append(torch.from_numpy(pixels).permute(2, 0, 1) / 127.5 - 1)
        latents.append(coder.encode(torch.stack(batch), source))
    labels = torch.tensor([source.classes.index(_class_of(file)) for file in files])
    with atomic_write(shard) as partial:
        save_file(
            {"latents": torch.cat(latents).contiguous(), "labels": labels},
            partial,
            {"source": json.dumps(asdict(source))},
        )


def _class_of(file: ImageFile) -> str:
    """The name of the folder that an image lies in."""
    return file.name.rpartition("/")[0] or "."


class Coder:
    """An autoencoder of diffusers, or none: pixels stay as they are."""

    def __init__(self, folder: str | None, device: torch.device) -> None:
        self._vae = None if folder is None else _load_vae(folder).to(device)
        self._folder, self._device = folder, device

    def source(self, classes: tuple[str, ...], scale: float | None) -> LatentSource:
        """What its latents are, scaled as its configuration says, or as asked for."""
        if self._vae is None:
            return LatentSource("pixels", classes, scale=scale or 1.0)
        shift, factor = (self._vae.config.get(name) for name in ("shift_factor", "scaling_factor"))
        return LatentSource("vae", classes, self._folder, float(shift or 0), float(scale or factor or 1))

    @torch.no_grad()
    def encode(self, pixels: Float[Tensor, "n colours height width"], source: LatentSource) -> Tensor:
        """Scaled latents of pixels in [−1, 1]; of a distribution, its mode."""
        if self._vae is None:
            return pixels * source.scale
        made = self._vae.encode(pixels.to(self._device, self._vae.dtype))
        latents = made.latent_dist.mode() if hasattr(made, "latent_dist") else made.latents
        return ((latents - source.shift) * source.scale).float().cpu()

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "n channels height width"], source: LatentSource) -> Tensor:
        """Pixels in [−1, 1]; of latents without an autoencoder, their first channels as colours."""
        if source.kind == "latents":
            colours = latents[:, : 3 if latents.shape[1] >= 3 else 1]
            return colours / (colours.abs().amax() + 1e-8)
        latents = latents / source.scale + source.shift
        if self._vae is None:
            return latents
        parts = latents.to(self._device, self._vae.dtype).split(_BATCH)
        return torch.cat([self._vae.decode(part).sample.float().cpu() for part in parts])


def _load_vae(folder: str) -> Any:
    try:
        from diffusers import AutoModel
    except ImportError as error:
        raise UserError("the package diffusers is not installed: pip install 'tokenry[images]'.") from error
    try:
        model = AutoModel.from_pretrained(folder, use_safetensors=True, local_files_only=True)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise UserError(
            f"{folder} holds no autoencoder of diffusers with safetensors ({str(error).splitlines()[0]}): give the folder of a VAE."
        ) from error
    if not (hasattr(model, "encode") and hasattr(model, "decode")):
        raise UserError(f"{folder} holds a {type(model).__name__}, which is no autoencoder.")
    return model.eval().requires_grad_(False)
