"""Messages of libraries that a user can do nothing about, silenced one by one, each where it comes from."""

import logging
import warnings


def quiet() -> None:
    """Silence them in this process."""
    # "GPU available: ...", tips, and notes on what the trainer does anyway
    for name in ("pytorch_lightning", "lightning", "lightning.pytorch", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        r".*does not have many workers.*",  # loader.workers decides, and its default is a choice
        r".*The number of training batches .* is smaller than the logging interval.*",
        r".*isinstance\(treespec, LeafSpec\).*",  # torch's own deprecation, met inside Lightning
        r".*Checkpoint directory .* exists and is not empty.*",
        r".*lr_scheduler.step\(\).* before .*optimizer.step\(\).*",  # the first fp16 step may be skipped
        r".*Trying to infer the `batch_size`.*",
        r".*Precision bf16-mixed is not supported by the model summary.*",
        r".*GPU available but not used.*",  # trainer.accelerator=cpu was asked for
    ):
        warnings.filterwarnings("ignore", message=message)
