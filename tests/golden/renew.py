"""The golden loss curve: ten steps of a small, fixed training run, kept in a text file.

A change of a model, loss, augmentation, sampler, optimiser or schedule that is meant changes the curve. Renew it with

    python tests/golden/renew.py

and say in the commit message why the numbers moved.
"""

import os
import sys
import tempfile
from pathlib import Path

import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from seg_cli.commands.build import build, build_model
from seg_cli.commands.train import build_data, build_task
from seg_cli.config import sums
from seg_cli.config.paths import conf_dir

CURVE = Path(__file__).with_name("unet_shapes.txt")
STEPS = 10
OVERRIDES = (
    *("model=unet", "encoder.name=resnet10t", "model.decoder_channels=[32,32,16,16,16]", "loss=dice+focal+ce"),
    *("data=shapes", "data.size=[64,64]", "data.train=40", "data.val=1", "data.test=1", "augment=geometry+color"),
    *("loader.batch_size=8", "loader.workers=0", "precision=fp32", "name=golden"),
)


class _Losses(pl.Callback):
    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        step = {key: float(value) for key, value in trainer.callback_metrics.items() if key.startswith("step/")}
        self.rows.append({key.removeprefix("step/"): value for key, value in step.items()})


def train() -> list[dict[str, float]]:
    """The loss and its terms at each step, computed with one thread in float32."""
    sums.register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = OmegaConf.to_container(compose("train", list(OVERRIDES)), resolve=True)
    assert isinstance(config, dict)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    pl.seed_everything(config["seed"], verbose=False)
    losses = _Losses()
    try:
        dataset = build(config, "data")
        task = build_task(config, build_model(config, dataset.labels.num_classes), dataset)
        with tempfile.TemporaryDirectory() as folder:
            trainer = pl.Trainer(
                accelerator="cpu",
                max_steps=STEPS,
                max_epochs=2,
                limit_val_batches=0,
                gradient_clip_val=config["trainer"]["gradient_clip"],
                callbacks=[losses],
                default_root_dir=folder,
                logger=False,
                use_distributed_sampler=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                enable_checkpointing=False,
            )
            trainer.fit(task, datamodule=build_data(config, dataset))
    finally:
        torch.set_num_threads(threads)
    return losses.rows


def read() -> list[dict[str, float]]:
    """The curve as it is kept."""
    lines = [line.split() for line in CURVE.read_text().splitlines() if not line.startswith("#")]
    header, *rows = lines
    return [dict(zip(header, map(float, row), strict=True)) for row in rows]


def write(rows: list[dict[str, float]]) -> None:
    """Keep a curve: a line a step, a column a term."""
    lines = [f"# segrun {' '.join(OVERRIDES)}", " ".join(rows[0])]
    lines += [" ".join(f"{value:.6f}" for value in row.values()) for row in rows]
    CURVE.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    write(train())
    sys.stdout.write(CURVE.read_text())
