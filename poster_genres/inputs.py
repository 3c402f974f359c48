"""What networks in training get of posters: pixels or, where their first blocks are frozen, these blocks' maps, computed once; and
what pretrained networks make of posters, for the linear probe."""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache, cached_property
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from poster_genres.augmentation import augment, crop_windows
from poster_genres.devices import autocast, choose_device
from poster_genres.files import repository
from poster_genres.model import Model
from poster_genres.network import FrozenMaps, Network, find_architecture, normalise
from poster_genres.progress import progress
from poster_genres.spread import spread
from poster_genres.tensor_cache import Posters

# The most that frozen blocks' maps may take on the disk.
MOST_BYTES = 16 * 2**30


def loader(posters: Posters, device: torch.device) -> Callable[[np.ndarray], Tensor]:
    """A function that loads rows of posters onto a device, as uint8 (rows, height, width, 3).

    A GPU keeps all posters in its memory where they take up to half of what is free. Otherwise each batch is read and copied while
    the GPU still works on the one before.
    """
    if device.type != "cuda":
        return lambda rows: torch.from_numpy(posters[rows]).to(device)
    if np.prod(posters.shape) > torch.cuda.mem_get_info(device)[0] / 2:
        return lambda rows: torch.from_numpy(posters[rows]).pin_memory().to(device, non_blocking=True)
    on_device = torch.empty(posters.shape, dtype=torch.uint8, device=device)
    for chunk in torch.arange(len(on_device)).split(1024):
        on_device[chunk[0] : chunk[-1] + 1] = torch.from_numpy(posters[chunk.numpy()]).to(device)
    return lambda rows: on_device[torch.from_numpy(rows).to(device)]


@cache
def pretrained(architecture: str, frozen_blocks: int, height: int, width: int) -> Network:
    """A network as it is before training, in evaluation mode."""
    record = find_architecture(architecture)
    network = record.build(1, height, width)
    assert record.load_pretrained is not None
    record.load_pretrained(network)
    network.freeze(frozen_blocks)
    return network.to(choose_device()).eval()


class Pretrained:
    """What a network, before it is trained, makes of posters and of their mirror images: work for `spread.spread`.

    On a CPU each poster is computed by itself, by one core, so that its numbers depend neither on the others nor on how many cores
    there are. A cluster's workers make the network anew, by its name.

    Parameters
    ----------
    model : its first network is used, in evaluation mode but while it is trained, when only its maps are asked for
    with_maps, with_features : what to compute
    """

    def __init__(self, model: Model, frozen_blocks: int, with_maps: bool, with_features: bool) -> None:
        self.network: Network | None = model.networks[0]
        self.made_by = model.architecture, frozen_blocks, model.height, model.width
        self.scale = model.mean, model.std
        self.with_maps, self.with_features = with_maps, with_features

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"network": None}

    def __call__(self, posters: np.ndarray) -> tuple[FrozenMaps | None, Tensor | None]:
        """The frozen blocks' maps, and the features, of posters, uint8 (n, height, width, 3), and then of their mirror images: of
        2 n, on the CPU."""
        network = self.network or pretrained(*self.made_by)
        device = next(network.parameters()).device
        if device.type == "cpu":
            torch.set_num_threads(1)
        with torch.inference_mode(), autocast(device):
            pixels = normalise(torch.from_numpy(posters).to(device), *self.scale)
            pixels = torch.cat([pixels, pixels.flip(3)])
            maps = network.frozen_maps(pixels) if self.with_maps else None
            features = network.features(pixels if maps is None else maps).float().cpu() if self.with_features else None
        return None if maps is None else FrozenMaps(*(part.cpu() for part in maps)), features


class Inputs:
    """The inputs of a model's networks, the first blocks of which may be frozen, and the same in all.

    These blocks' maps are kept in a temporary file, which takes up to half of the disk's free space; those of further posters are
    computed each time.

    Parameters
    ----------
    posters : uint8 (N, height, width, 3)
    frozen_blocks : of the networks
    """

    def __init__(self, model: Model, posters: Posters, device: torch.device, frozen_blocks: int) -> None:
        self.model, self.posters, self.device, self.frozen_blocks = model, posters, device, frozen_blocks
        # Whether crops are as small as what is left, the same for all posters of a batch, or are enlarged again.
        self.windows = model.networks[0].any_size
        # Otherwise batch norm would take statistics of its own before training begins.
        model.networks[0].eval()
        self._file: BinaryIO | None = None
        self._room, self._told = 0, False
        self._kept = np.zeros(len(posters), bool)
        # Of a poster's maps, rows by columns by channels, and of a record of these and the features.
        self._shape, self._type, self._bytes = torch.Size(), torch.float32, 0

    @cached_property
    def load(self) -> Callable[[np.ndarray], Tensor]:
        """See `loader`. Where blocks are frozen, it is not used."""
        return loader(self.posters, self.device)

    def features(self, rows: np.ndarray, with_maps: bool, dask_scheduler: str | None = None) -> Tensor:
        """The features of posters and of their mirror images by the networks, which must not have been trained yet.

        Parameters
        ----------
        with_maps : whether to keep the frozen blocks' maps for what follows
        dask_scheduler : see `spread.spread`

        Returns
        -------
        float32 (2, rows, features) on the CPU
        """
        features: list[Tensor] = []
        with progress("features", len(rows), leave=False) as bar:
            for few, maps, of_few in self._compute(rows, with_maps and self.frozen_blocks > 0, True, dask_scheduler):
                if maps is not None:
                    self._keep(few, maps)
                assert of_few is not None
                features.append(of_few.unflatten(0, (2, len(few))))
                bar.update(len(few))
        return torch.cat(features, dim=1)

    def views(self, rows: np.ndarray) -> tuple[Tensor | FrozenMaps, Tensor | FrozenMaps]:
        """The inputs for posters and for their mirror images."""
        if not self.frozen_blocks:
            pixels = self.model.normalise(self.load(rows))
            return pixels, pixels.flip(3)
        return self._maps(rows, np.zeros(len(rows), int)), self._maps(rows, np.ones(len(rows), int))

    def augmented(self, rows: np.ndarray, transforms: Tensor | None) -> Tensor | FrozenMaps:
        """The inputs for posters, each changed by its transform of `augmentation.random_transforms`.

        Maps are those of the whole poster, mirrored or not, of which `augmentation.crop_windows` cuts off the edges.
        """
        if not self.frozen_blocks:
            return augment(self.model.normalise(self.load(rows)), transforms, self.windows)
        if transforms is None:
            return self._maps(rows, np.zeros(len(rows), int))
        maps, features = self._maps(rows, (transforms[:, 0, 0] < 0).int().numpy())
        return FrozenMaps(crop_windows(maps, transforms), features)

    def _compute(
        self, rows: np.ndarray, with_maps: bool, with_features: bool, dask_scheduler: str | None = None
    ) -> Iterator[tuple[np.ndarray, FrozenMaps | None, Tensor | None]]:
        """A few rows at a time, and what `Pretrained` gives for them."""
        cpu = self.device.type == "cpu"
        chunks = np.split(rows, range(1 if cpu else 64, len(rows), 1 if cpu else 64))
        work = Pretrained(self.model, self.frozen_blocks, with_maps, with_features)
        # As many cores as torch may use: a sweep or `processes` leaves the others to other trainings.
        cores = torch.get_num_threads() if cpu else 1
        results = spread(work, (self.posters[few] for few in chunks), dask_scheduler, cores)
        for few, (maps, features) in zip(chunks, results, strict=True):
            yield few, maps, features

    def _maps(self, rows: np.ndarray, sides: np.ndarray) -> FrozenMaps:
        """The maps of posters or, where a row's side is 1, of their mirror images."""
        computed: dict[int, np.ndarray] = {}
        missing = np.unique(rows[~self._kept[rows]])
        if len(missing):
            for few, maps, _ in self._compute(missing, True, False):
                assert maps is not None
                computed |= self._keep(few, maps)
        records = [
            computed[row][side] if row in computed else self._read(row, side)
            for row, side in zip(rows.tolist(), sides.tolist(), strict=True)
        ]
        size = self._shape.numel() * self._type.itemsize
        maps_of_rows = torch.from_numpy(np.stack([record[:size] for record in records])).to(self.device).view(self._type)
        features = torch.from_numpy(np.stack([record[size:] for record in records])).to(self.device).view(torch.float32)
        return FrozenMaps(maps_of_rows.unflatten(1, self._shape).permute(0, 3, 1, 2), features)

    def _keep(self, rows: np.ndarray, of_rows: FrozenMaps) -> dict[int, np.ndarray]:
        """Write the maps of posters and their mirror images to the file; return the records of those for which it has no room."""
        maps = of_rows.maps.permute(0, 2, 3, 1).contiguous()
        self._shape, self._type = maps.shape[1:], maps.dtype
        parts = [part.flatten(1).view(torch.uint8).numpy() for part in (maps, of_rows.features)]
        records = np.concatenate(parts, axis=1).reshape(2, len(rows), -1).swapaxes(0, 1)
        self._bytes = records.shape[2]
        for row, record in zip(rows.tolist(), records, strict=True):
            self._kept[row] = self._write(record, row * record.size)
        left = {row: record for row, record in zip(rows.tolist(), records, strict=True) if not self._kept[row]}
        if left and not self._told:
            self._told = True
            print("warning: .dvc/tmp has no room for all frozen blocks' maps; some are computed in each epoch", file=sys.stderr)
        return left

    def _write(self, record: np.ndarray, position: int) -> bool:
        """Write a record to the file; returns whether there was room."""
        folder = repository() / ".dvc" / "tmp"
        try:
            if self._file is None:
                folder.mkdir(parents=True, exist_ok=True)
                self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - open until the training ends
                self._room = min(MOST_BYTES, shutil.disk_usage(folder).free // 2)
            if record.size <= self._room:  # the rows between are holes, which take none
                self._room -= record.size
                return os.pwrite(self._file.fileno(), record.tobytes(), position) == record.size
        except OSError:  # the disk is full, or cannot be written
            self._room = 0
        return False

    def _read(self, row: int, side: int) -> np.ndarray:
        assert self._file is not None
        return np.frombuffer(os.pread(self._file.fileno(), self._bytes, (2 * row + side) * self._bytes), np.uint8)
