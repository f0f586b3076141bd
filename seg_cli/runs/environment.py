"""What a run ran on, for environment.json: code, versions, machine, command line. Secrets are masked."""

import hashlib
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from seg_cli.config.secrets import mask_secrets

_PACKAGES = (
    *("segrun", "torch", "torchvision", "pytorch-lightning", "timm", "albumentations", "opencv-python-headless"),
    *("numpy", "scipy", "scikit-image", "scikit-learn", "hydra-core", "omegaconf", "wandb", "pillow"),
    *("segmentation-models-pytorch", "monai", "transformers"),
)


def describe_environment() -> dict[str, Any]:
    """The contents of environment.json."""
    import torch

    cuda = torch.cuda.is_available()
    return {
        "command_line": [mask_secrets(argument) for argument in sys.argv],
        "folder": os.getcwd(),
        "git": _describe_git(Path(__file__).parent),
        "packages": {name: _version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "os": platform.platform(),
        "host": platform.node(),
        "cpu": {"model": _cpu_model(), "cores": os.cpu_count(), "torch_threads": torch.get_num_threads()},
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else [],
        "cuda": torch.version.cuda if cuda else None,
    }


def _describe_git(folder: Path) -> dict[str, str | bool] | None:
    """Commit and hash of what is changed against it, of the code's checkout; None if it is installed."""

    def git(*arguments: str) -> bytes:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, check=True, timeout=10).stdout

    try:
        # An installed package inside somebody's repository is not that repository's code.
        if not git("ls-files", str(Path(__file__))).strip():
            return None
        diff = git("diff", "HEAD")
        return {
            "commit": git("rev-parse", "HEAD").decode().strip(),
            "changed": bool(diff),
            "diff_sha256": hashlib.sha256(diff).hexdigest(),
        }
    except (OSError, subprocess.SubprocessError):
        return None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
