"""Shell completion: the candidates, and what a real bash makes of them."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from seg_cli.commands.completion import candidates, script


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("segrun do", ["doctor"]),
        ("segrun mo", ["model=", "model."]),
        ("segrun model=unet_p", ["model=unet_paper"]),
        ("segrun +model=unetp", ["+model=unetpp"]),
        ("segrun loss=ce+di", ["loss=ce+dice"]),
        ("segrun loss=ce+2*di", ["loss=ce+2*dice"]),
        ("segrun -m model=unet,deeplabv3p", ["model=unet,deeplabv3plus"]),
        ("segrun -m loss=ce,ce+di", ["loss=ce,ce+dice"]),
        ("segrun loader.b", ["loader.batch_size="]),
        ("segrun loss=dice+focal loss.terms.", ["loss.terms.dice.", "loss.terms.focal."]),
        ("segrun loss=dice loss.terms.dice.sm", ["loss.terms.dice.smooth="]),
        ("segrun data=camvid data.r", ["data.root="]),
        (
            "segrun eval ",
            [
                *("data=", "precision=", "metrics=", "tta=", "inference=", "postprocess=", "run=", "name=", "split="),
                *("checkpoint=", "data.", "classes.", "loader.", "void=", "threshold=", "accelerator=", "precision."),
                "limit_batches=",
            ],
        ),
        ("segrun train se", ["seed="]),
        ("segrun tune sw", ["sweep="]),
        ("segrun tune sweep=lr", ["sweep=lr_wd"]),
        ("segrun tune sweep=lr_wd sweep.tr", ["sweep.trials="]),
        ("segrun tune wor", ["workers="]),
        ("segrun list los", ["losses"]),
        ("segrun list --j", ["--json"]),
        ("segrun list models --c", ["--config-dir", "--cost"]),
        ("segrun --multi", ["--multirun"]),
        ("segrun nonsense=", []),
    ],
)
def test_candidates(line: str, expected: list[str]) -> None:
    assert candidates(line) == expected


def test_a_term_is_not_offered_twice() -> None:
    assert "loss=ce+ce" not in candidates("segrun loss=ce+")
    assert "model=unet,unet" not in candidates("segrun -m model=unet,")


def test_hydra_is_not_imported() -> None:
    code = "import sys; from seg_cli import cli; cli.run(['--complete', 'segrun mo'])"
    code += "; print('hydra' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "model=\nmodel.\nFalse\n"


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize(
    ("line", "words", "expected"),
    [
        ("segrun mod", ["segrun", "mod"], "model=|model."),
        ("segrun model=unetp", ["segrun", "model", "=", "unetp"], "unetpp"),
        ("segrun loss=ce+di", ["segrun", "loss", "=", "ce+di"], "ce+dice"),
        ("segrun dat", ["segrun", "dat"], "data=|data."),
    ],
)
def test_bash(line: str, words: list[str], expected: str, tmp_path: Path) -> None:
    """Call the function as bash does at Tab, where '=' is a word of its own."""
    program = tmp_path / "segrun"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m seg_cli "$@"\n')
    program.chmod(0o755)
    quoted = " ".join(f"'{word}'" for word in words)
    tab = (
        f"COMP_LINE='{line}' COMP_POINT={len(line)} COMP_WORDS=({quoted}) COMP_CWORD={len(words) - 1}\n"
        f"_segrun '{program}' '{words[-1]}' '{words[-2]}' 2>/dev/null\n"
        "IFS='|'; echo \"${COMPREPLY[*]}\""
    )
    done = subprocess.run(["bash", "-c", f"{script('bash')}\n{tab}"], capture_output=True, text=True)
    assert done.stdout == f"{expected}\n", done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_are_read_by_their_shells(shell: str) -> None:
    text = script(shell)
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell}")
    assert subprocess.run([shell, "-n"], input=text, text=True).returncode == 0
