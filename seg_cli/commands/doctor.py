"""``segrun doctor``: versions, devices and data, what is missing, and what to type about it."""

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module, metadata
from pathlib import Path

import yaml
from omegaconf import OmegaConf
from packaging.requirements import Requirement
from rich.console import Console
from rich.text import Text

from seg_cli.commands.arguments import Parser
from seg_cli.config.choices import choices
from seg_cli.errors import UserError
from seg_cli.runs import slurm

_GIB = 2**30
_SMALL_DISK = 5 * _GIB
_SMALL_SHARED_MEMORY = _GIB


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        section: the heading that it stands under.
        name: what was looked at.
        value: what was found.
        advice: what to do about it; None where all is well.
        broken: whether nothing can be trained before it is mended.
    """

    section: str
    name: str
    value: str
    advice: str | None = None
    broken: bool = False


def main(argv: Sequence[str]) -> int:
    parser = Parser("doctor")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)

    findings = list(examine())
    if options.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        _print_report(findings)
    return 1 if any(finding.broken for finding in findings) else 0


def examine() -> Iterator[Finding]:
    """Look at everything that a run depends on."""
    yield from _system()
    yield from _packages()
    torch_works = yield from _imports()
    if torch_works:
        yield from _devices()
        yield from _wandb()
    yield from _cluster()
    yield from _data()


def _system() -> Iterator[Finding]:
    yield Finding("System", "python", f"{platform.python_version()} ({sys.executable})")
    yield Finding("System", "os", platform.platform())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("System", "cores", str(cores))
    free = shutil.disk_usage(".").free
    advice = "Make room, or run in another folder: run_dir=DIR. A run keeps two checkpoints."
    yield Finding("System", "free disk here", _size(free), advice if free < _SMALL_DISK else None)
    if Path("/dev/shm").is_dir():
        free = shutil.disk_usage("/dev/shm").free
        advice = "Workers pass images through it. Start Docker with --shm-size=8g, or type loader.workers=0."
        yield Finding("System", "shared memory", _size(free), advice if free < _SMALL_SHARED_MEMORY else None)


def _packages() -> Iterator[Finding]:
    """Every requirement of ours: what is installed, and whether it fits."""
    try:
        required = [Requirement(text) for text in metadata.requires("segrun") or []]
        extras = metadata.metadata("segrun").get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:
        yield Finding("Packages", "segrun", "not installed", "Type: pip install -e .  in its folder.")
        return
    yield Finding("Packages", "segrun", metadata.version("segrun"))
    for requirement in required:
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield _package(requirement)
    for extra in extras:
        wanted = {r.name for r in required if r.marker and r.marker.evaluate({"extra": extra})} - {"segrun"}
        missing = sorted(name for name in wanted if _version(name) is None)
        if missing:
            advice = f"Type, if you need it: pip install 'segrun[{extra}]'"
            yield Finding("Extras", extra, f"without {', '.join(missing)}", advice)
        else:
            yield Finding("Extras", extra, "installed")


def _package(requirement: Requirement) -> Finding:
    version = _version(requirement.name)
    advice = f"Type: pip install '{requirement.name}{requirement.specifier}'"
    if version is None:
        return Finding("Packages", requirement.name, "missing", advice, broken=True)
    if not requirement.specifier.contains(version, prereleases=True):
        found = f"{version}, which is not {requirement.specifier}"
        return Finding("Packages", requirement.name, found, advice, broken=True)
    return Finding("Packages", requirement.name, version)


def _imports() -> Generator[Finding, None, bool]:
    """Packages that are installed need not fit each other. Returns whether torch can be used."""
    for name in ("torch", "torchvision", "pytorch_lightning", "timm", "albumentations", "cv2"):
        try:
            import_module(name)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            yield Finding("Packages", f"import {name}", reason, _how_to_mend(name), broken=True)
            return False
    return True


def _how_to_mend(name: str) -> str:
    version = _version("torchvision")
    if name != "torchvision" or version is None:
        return f"Type: python -c 'import {name}'  and see what is missing."
    wanted = [r for r in map(Requirement, metadata.requires("torchvision") or []) if r.name == "torch"]
    pair = f"torch{wanted[0].specifier}" if wanted else "the torch of the same release"
    return (
        f"torchvision {version} was built for {pair}, and torch is {_version('torch')}. "
        f"Type: pip install '{pair}' 'torchvision=={version}'"
    )


def _devices() -> Iterator[Finding]:
    import torch

    from seg_cli.training.precision import cpu_has_bf16, has_bf16

    bf16 = "with bfloat16 instructions" if cpu_has_bf16() else "without bfloat16 instructions"
    yield Finding("Devices", "cpu", f"{platform.machine()}, {bf16}")
    if torch.cuda.is_available():
        cudnn = torch.backends.cudnn.version()
        yield Finding("Devices", "cuda", f"{torch.version.cuda}, cuDNN {cudnn}")
        for index in range(torch.cuda.device_count()):
            device = torch.device("cuda", index)
            free, total = torch.cuda.mem_get_info(device)
            bf16 = "bfloat16" if has_bf16(device) else "no bfloat16"
            memory = f"{_size(total)}, {_size(free)} free"
            name = torch.cuda.get_device_name(device)
            yield Finding("Devices", f"gpu {index}", f"{name}, {memory}, {bf16}")
    elif _has_nvidia_driver():
        build = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "for CPUs"
        advice = f"There is a GPU, but torch is built {build}. Install one that fits (see nvidia-smi)."
        yield Finding("Devices", "gpu", "not usable", advice)
    else:
        yield Finding("Devices", "gpu", "none")


def _has_nvidia_driver() -> bool:
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return False
    return "GPU" in listed.stdout


def _wandb() -> Iterator[Finding]:
    try:
        import wandb
    except Exception as error:
        yield Finding("W&B", "mode", f"wandb does not import: {error}", "Type: pip install --upgrade wandb")
        return
    from seg_cli.training.wandb_runs import decide_mode

    mode = decide_mode("auto", wandb.setup(wandb.Settings(silent=True)).settings)
    why = {
        "online": "a key was found",
        "offline": "no key, or offline was asked for",
        "disabled": "as asked for",
    }
    advice = None if mode == "online" else "To log online, type: wandb login"
    yield Finding("W&B", "mode", f"{mode}: {why[mode]}", advice)


def _cluster() -> Iterator[Finding]:
    """Partitions of SLURM, where its commands are: what ``hydra.launcher.*`` may ask for."""
    if not slurm.is_there():
        return
    try:
        found = slurm.partitions()
    except UserError as error:
        advice = "Type sinfo; does SLURM_CONF have to be set? Or run jobs here: hydra/launcher=joblib"
        yield Finding("SLURM", "sinfo", str(error), advice)
        return
    for nodes in found:
        value = f"{nodes.count} x {nodes.cpus} cores, {nodes.memory / 1024:.1f} GiB, {nodes.gpus} GPUs"
        limit = "" if nodes.minutes is None else f", {nodes.minutes:g} minutes"
        yield Finding("SLURM", nodes.partition, f"{value}{limit}{' (the default one)' * nodes.default}")


def _data() -> Iterator[Finding]:
    root = os.environ.get("SEGRUN_DATA")
    found = root or "not set, so data/ in the current folder"
    yield Finding("Data", "SEGRUN_DATA", found)
    missing = []
    for choice in choices("data"):
        if choice.name in ("folder", "manifest"):  # images of one's own, which have no place to be expected at
            continue
        config = OmegaConf.create(yaml.safe_load(choice.path.read_text(encoding="utf-8")))
        if "root" not in config:
            yield Finding("Data", choice.name, "needs no files")
        elif Path(config.root).is_dir():
            yield Finding("Data", choice.name, str(config.root))
        else:
            missing.append(choice.name)
    if missing:
        where = f"{Path(root or 'data')}/"
        advice = "To train on one of them, say where it is: data.root=DIR, or set SEGRUN_DATA to the folder around it."
        yield Finding("Data", "not there", f"{', '.join(missing)} (looked for in {where})", advice)


def _print_report(findings: Sequence[Finding]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    width = max(len(finding.name) for finding in findings)
    section = None
    for finding in findings:
        if finding.section != section:
            section = finding.section
            console.print(Text(section, "bold"))
        style = "bold red" if finding.broken else "yellow" if finding.advice else ""
        console.print(Text.assemble(f"  {finding.name:<{width}}  ", (finding.value, style)))
        if finding.advice:
            console.print(Text(f"  {'':<{width}}  -> {finding.advice}"))
    broken = [finding.name for finding in findings if finding.broken]
    verdict = f"Broken: {', '.join(broken)}. Follow the arrows." if broken else "Ready to train. Type: segrun"
    console.print(Text(f"\n{verdict}", "bold"))


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _size(number: float) -> str:
    return f"{number / _GIB:.1f} GiB"
