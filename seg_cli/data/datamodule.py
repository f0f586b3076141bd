"""The dataset as Lightning sees it: loaders for this process of however many there are."""

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from seg_cli.data.loading import scoring_loader, training_loader, worker_count
from seg_cli.data.sample import Dataset
from seg_cli.data.transforms import Augment, Size


class DataModule(pl.LightningDataModule):
    """Loaders of ``train`` and ``val``.

    Args:
        dataset: its splits.
        augment: what happens to training samples.
        crop: (height, width) of training samples, None for their own size.
        batch_size, eval_batch_size: samples a batch on each device.
        workers: processes that read, or ``auto``.
        seed: of the shuffling and the augmentation.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        augment: Augment,
        crop: Size | None,
        batch_size: int,
        eval_batch_size: int,
        workers: int | str,
        seed: int,
    ) -> None:
        super().__init__()
        self.dataset, self.augment, self.crop = dataset, augment, crop
        self.batch_size, self.eval_batch_size, self.seed = batch_size, eval_batch_size, seed
        self.workers = worker_count(workers)

    def train_dataloader(self) -> DataLoader:
        return training_loader(
            self.dataset.splits["train"],
            augment=self.augment,
            crop=self.crop,
            batch_size=self.batch_size,
            seed=self.seed,
            workers=self.workers,
            rank=self.trainer.global_rank if self.trainer else 0,
            world_size=self.trainer.world_size if self.trainer else 1,
        )

    def val_dataloader(self) -> DataLoader:
        return scoring_loader(
            self.dataset.splits["val"],
            batch_size=self.eval_batch_size,
            workers=self.workers,
            rank=self.trainer.global_rank if self.trainer else 0,
            world_size=self.trainer.world_size if self.trainer else 1,
        )
