"""The dataset as training sees it: batches for this process of however many there are."""

from collections.abc import Callable, Iterable, Iterator

from seg_cli.data.augment import Augment
from seg_cli.data.class_counts import content_key
from seg_cli.data.class_places import find_places
from seg_cli.data.geometry import Size
from seg_cli.data.loading import Batch, BatchShape, scoring_loader, training_loader, worker_count
from seg_cli.data.sample import Dataset


class DataModule:
    """Batches of ``train`` and ``val``, for this process of however many there are.

    Args:
        dataset: its splits.
        augment: what happens to training samples.
        eval_batch_size: samples a batch in scoring, on each device.
        workers: processes that read, or ``auto``.
        seed: of the shuffling and the augmentation.
    """

    def __init__(
        self, dataset: Dataset, *, augment: Augment, eval_batch_size: int, workers: int | str, seed: int
    ) -> None:
        self.dataset, self.augment = dataset, augment
        self.eval_batch_size, self.seed = eval_batch_size, seed
        self.workers = worker_count(workers)

    def open(self, shape_of: Callable[[int], BatchShape], *, rank: int = 0, world_size: int = 1) -> None:
        """Make the loaders, which stay for the whole training.

        Args:
            shape_of: epoch -> what its training batches look like.
            rank, world_size: of this process, and how many there are.
        """
        spread = {"workers": self.workers, "rank": rank, "world_size": world_size}
        self._train = training_loader(
            self.dataset.splits["train"], augment=self.augment, shape_of=shape_of, seed=self.seed, **spread
        )
        self._val = scoring_loader(self.dataset.splits["val"], batch_size=self.eval_batch_size, **spread)

    def training_batches(self, epoch: int, batches: range, skipped: int = 0) -> Iterator[Batch]:
        """These batches of an epoch, which counts from 0; they are counted behind so many of its samples."""
        if not batches:
            return iter(())
        self._train.batch_sampler.choose(epoch, batches, skipped)  # type: ignore[union-attr]
        return iter(self._train)

    def validation_batches(self) -> Iterator[list[Batch]]:
        """All of val, in order; see ``scoring_loader``."""
        return iter(self._val)

    @property
    def validation_length(self) -> int:
        """Lists of batches in val."""
        return len(self._val)


def fit_augment(
    augment: Augment,
    dataset: Dataset,
    *,
    split: str = "train",
    crop: Size | None,
    workers: int,
    progress: Callable[[Iterable], Iterable] = iter,
) -> None:
    """Make an augmentation ready for a split: its steps are tried, and learn what they need to know of the masks.

    It is called before there are workers, which then all know the same. Where the classes are is looked up once, with
    ``workers`` processes, and remembered by the content of the masks.

    Args:
        augment: is made ready.
        dataset, split: what will be augmented.
        crop: (height, width) that will be asked for.
        workers: processes that read masks.
        progress: is given an iterable of one item a mask, and yields its items while it shows how far it is.

    Raises:
        UserError: if a step does not take the dataset's images or names a class that it does not have, the crop needs a
            size and has none, or a mask cannot be read.
    """
    augment.check(dataset.splits[split], crop)
    if augment.needs_places:
        key = content_key(dataset, split)
        places = find_places(dataset.splits[split], dataset.labels, workers=workers, key=key, progress=progress)
        augment.fit(places, dataset.labels)
