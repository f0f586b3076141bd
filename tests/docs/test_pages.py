"""Every segrun command in the shell blocks of README and docs/, typed in order, page by page, on small data.

What a command does is left as it stands; how long it takes is not: fewer images, steps and trials are added behind it,
and what a page calls DIR, RUN or FILE is put in. ``tests/e2e/test_docs.py`` has the commands as they are, composed.
"""

import re
import shlex
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.docs.conftest import SIZE
from tests.e2e.conftest import Outcome

pytestmark = pytest.mark.docs

REPOSITORY = Path(__file__).parents[2]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]

VERBS = ("eval", "predict", "export", "check", "plan", "tune", "list", "table", "report")
VERBS += ("resume", "rerun", "status", "cancel", "doctor")

ELSEWHERE = {  # what cannot be had here: why
    "hydra/launcher=slurm": "needs SLURM: tests/cluster and examples/paper.sh",
    "hydra.launcher.address=auto": "needs a Ray cluster: tests/e2e/test_launchers.py begins one of its own",
    "--follow": "shows a matrix while it lasts: tests/e2e/test_status.py",
    "segrun cancel": "needs a matrix that lasts: tests/e2e/test_status.py",
    "segrun resume RUN": "needs a run that was interrupted: tests/e2e/test_resume.py",
}


def commands(page: Path) -> list[str]:
    """The lines of its shell blocks that begin with segrun, without their comments."""
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)
    lines = [line for block in blocks for line in re.sub(r"\\\n\s*", "", block).splitlines()]
    return [line.partition(" #")[0].strip() for line in lines if line.startswith("segrun ")]


def filled_in(command: str) -> str:
    """The command with what a reader would put in its place."""
    two_classes = "membranes" in command or "model.method=adaptive" in command
    root = "SEGRUN_DATA/isbi" if two_classes else "SEGRUN_DATA/camvid" if "camvid" in command else "fruit"
    for name, value in {
        r"data\.root=DIR": f"data.root={root}",
        r"encoder\.weights=(FILE|imagenet)": "encoder.weights=none",  # no test downloads anything
        r"outputs/shapes/2026-01-31_12-00-00": "outputs/run",
        r"\bOTHER\b": "outputs/other",
        r"\bRUN\b": "outputs/run",
    }.items():
        command = re.sub(name, value, command)
    return command


def cut_down(arguments: list[str]) -> list[str]:
    """What is added so that it ends in seconds."""
    words = set(arguments)
    verb = arguments[0] if arguments[0] in VERBS else "train"
    if verb == "predict":
        return [] if any(word.startswith("model=") for word in words) else ["accelerator=cpu"]
    if verb == "eval":
        return ["accelerator=cpu", "loader.workers=0"]
    if verb not in ("train", "plan", "tune"):
        return []
    small = ["trainer.accelerator=cpu", "trainer.limit_batches=2", "loader.batch_size=2", "loader.workers=0"]
    if "logger=wandb+csv" not in words:
        small.append("logger=none")
    planned = ("resize=progressive", "finetune=", "Ramp", "average=")
    if not any(word in argument for argument in arguments for word in planned):
        small.append("trainer.max_epochs=1")
    elsewhere = any(word.startswith("data=") and word != "data=shapes" for word in words)
    if not elsewhere and not any("camvid" in word or "membranes" in word for word in words):
        small += ["data.train=20", "data.val=2", "data.test=2", "data.size=[64,64]"]
    if not any("encoder" in word or "sweep=architecture" in word for word in words):
        small.append("encoder.name=test_resnet.r160_in1k")
    if any(word.startswith("experiment=camvid") for word in words):
        small.append("encoder.weights=none")
    if verb == "tune":
        small += [] if any(word.startswith("sweep.trials") for word in words) else ["sweep.trials=2"]
        small.append("name=searched_" + re.sub(r"\W", "_", " ".join(arguments))[-40:])
        small = [word for word in small if not (word.startswith("name=") and any("name=" in own for own in arguments))]
    if any("benchmark=classical" in word for word in words):
        small.append("seed=0")
    return small


@pytest.fixture
def trained(shell: Callable[..., Outcome], desk: Path) -> Callable[..., Outcome]:
    """``segrun`` on a desk where outputs/run is a finished run, and outputs/other its twin."""
    small = cut_down(["model=unet"])
    for name in ("run", "other"):
        done = shell("model=unet", "loss=ce", *small, f"run_dir=outputs/{name}")
        assert done.status == 0, done.err
    return shell


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda page: page.stem)
def test_the_commands_of_a_page(trained: Callable[..., Outcome], desk: Path, page: Path) -> None:
    failed, took = [], []
    for command in commands(page):
        if any(what in command for what in ELSEWHERE):
            continue
        text = filled_in(command).replace("SEGRUN_DATA", str(desk.parent / "public"))
        arguments = shlex.split(text)[1:]
        if "outputs/camvid_small" in arguments:  # of the page before
            shutil.copytree("outputs/run", "outputs/camvid_small/run", dirs_exist_ok=True)
        if arguments == ["status"]:
            assert trained("-m", "model=unet", "seed=0,1", *cut_down(["model=unet"])).status == 0
        if "threshold=best" in arguments:  # of labels that overlap
            labels = ["model=unet", "loss=bce", "data=folder", "data.root=fruit_labels", "data.multilabel=true"]
            assert trained(*labels, *cut_down(labels), "run_dir=outputs/labels").status == 0
            arguments[arguments.index("run=outputs/run")] = "run=outputs/labels"
        began = time.monotonic()
        done = trained(*arguments, *cut_down(arguments))
        took.append(f"{time.monotonic() - began:6.1f} s  {done.status}  {command}")
        if done.status != 0:
            failed.append(f"{shlex.join(arguments)} -> {done.status}: {done.err.strip()[-600:]}")
    print(page.name, *took, sep="\n")
    assert not failed, "\n".join(failed)


def test_what_is_run_elsewhere_is_on_some_page() -> None:
    everything = "\n".join(command for page in PAGES for command in commands(page))
    for what in ELSEWHERE:
        assert what in everything, f"{what} stands on no page any more"


def test_the_scripts_of_measurements_that_pages_name_are_there() -> None:
    for page in PAGES:
        for script in re.findall(r"python (bench/\w+\.py)", page.read_text()):
            assert (REPOSITORY / script).is_file(), f"{page.name}: {script}"


def test_the_desk_shows_scenes(desk: Path) -> None:
    from PIL import Image

    assert Image.open(desk / "photos" / "photo0.jpg").size == SIZE[::-1]
