"""The golden loss curve: ten steps of a small, fixed training run, kept in a text file.

A change of a model, loss, augmentation, sampler, optimiser or schedule that is meant changes the curve. Renew it with

    python tests/golden/renew.py

and say in the commit message why the numbers moved.
"""

import os
import sys
import tempfile
from pathlib import Path
from unittest import mock

import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from torch import Tensor

from seg_cli.commands.experiment import prepare
from seg_cli.config import sums
from seg_cli.config.paths import conf_dir
from seg_cli.data.loading import Batch
from seg_cli.runs.run import Run
from seg_cli.training.devices import make_fabric
from seg_cli.training.fit import fit
from seg_cli.training.step import Stepper

CURVE = Path(__file__).with_name("unet_shapes.txt")
STEPS = 10
OVERRIDES = (
    *("model=unet", "encoder.name=resnet10t", "model.decoder_channels=[32,32,16,16,16]", "loss=dice+focal+ce"),
    *("data=shapes", "data.size=[64,64]", "data.train=40", "data.val=1", "data.test=1", "augment=geometry+color"),
    *("loader.batch_size=8", "loader.workers=0", "precision=fp32", "trainer.accelerator=cpu"),
    *("trainer.max_epochs=2", "name=golden"),
)


def train() -> list[dict[str, float]]:
    """The loss and its terms at each step, computed with one thread in float32."""
    sums.register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = OmegaConf.to_container(compose("train", list(OVERRIDES)), resolve=True)
    assert isinstance(config, dict)
    rows: list[dict[str, float]] = []
    true_step = Stepper.step

    def step(stepper: Stepper, batches: list[Batch], *, guarded: bool) -> dict[str, Tensor]:
        losses = true_step(stepper, batches, guarded=guarded)
        rows.append({f"loss{name}": float(value) for name, value in losses.items()})
        return losses

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        experiment = prepare(config)
        fabric = make_fabric(config["trainer"], experiment.device, thaws=False)
        with tempfile.TemporaryDirectory() as folder, mock.patch.object(Stepper, "step", step):
            fit(
                experiment.task,
                experiment.data,
                Run.create(Path(folder) / "run", numbered=False),
                fabric=fabric,
                plan=experiment.plan(1),
                settings=config["trainer"],
                mode=experiment.mode,
                average=experiment.average,
                loggers=[],
                identity={},
                image_size=experiment.image_size,
            )
    finally:
        torch.set_num_threads(threads)
    return rows


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
