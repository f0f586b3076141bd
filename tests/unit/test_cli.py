"""The command line: what it says to wrong requests, with which exit status, and how quickly."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from seg_cli import __version__, cli
from seg_cli.commands.help import VERBS

SEGRUN = [sys.executable, "-m", "seg_cli"]


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HYDRA_FULL_ERROR", "SEGRUN_TRACEBACKS"):
        monkeypatch.setenv(name, "0")
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def segrun(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if k not in ("HYDRA_FULL_ERROR", "SEGRUN_TRACEBACKS")}
    return subprocess.run([*SEGRUN, *arguments], capture_output=True, text=True, env=clean | environment, timeout=120)


def test_help_names_every_verb_and_group(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--help"]) == 0
    text = capsys.readouterr().out
    for word in (*VERBS, "deeplabv3plus", "tf_efficientnet_lite0", "--config-dir"):
        assert word in text
    assert max(map(len, text.splitlines())) <= 110


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([verb, "--help"]) == 0
    assert capsys.readouterr().out.startswith("segrun ")


@pytest.mark.parametrize(("words", "first"), [(["help"], "segrun: "), (["help", "table"], "segrun table ")])
def test_help_as_a_verb(words: list[str], first: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(words) == 0
    assert capsys.readouterr().out.startswith(first)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out == f"segrun {__version__}\n"


WRONG = [
    (["unett"], "unett: there is no such verb. Did you mean 'tune'? Verbs: train, "),
    (["trian"], "there is no such verb. Did you mean 'train'?"),
    (["compare"], "compare: there is no such verb. Did you mean 'table'?"),
    (["model", "unet"], "model: an option is written as key=value, without blanks. Type: segrun model=unet"),
    (["model", "=", "unet"], "model: an option is written as key=value, without blanks. Type: segrun model=unet"),
    (["loss=ce", "+", "dice"], "+: it stands alone. An option has no blanks, as in loss=dice+focal"),
    (["-m", "loss=dice,", "focal"], "write loss=dice,... without blanks behind the commas."),
    (["loader.crop=[64,", "64]"], "A blank ends an option: write loader.crop=[64,... without blanks"),
    (["loss=ce+2dice"], "A weight is written as in 'loss=ce+2*dice', with a '*' and in quotes."),
    (["--model", "unet"], "--model: there is no such flag. Settings are written without dashes, as in model=VALUE."),
    (["run_dir=läufe/1"], "letters such as ü is quoted twice, once for the shell: 'run_dir=\"läufe/1\"'"),
    (["data.size=64"], "data.size=64: it must be [height,width] of at least 32 pixels, as in data.size=[64,64]."),
    (["data.val=0"], "data.val=0: it must be at least 1."),
    (["unet"], "unet: an option is written as key=value. Type: segrun model=unet"),
    (["model=unett"], "model=unett: there is no model 'unett'. Did you mean 'unet'? Models: cunet, deconvnet, "),
    (["loss=dise"], "loss=dise: there is no loss 'dise'. Did you mean 'dice'? Losses: bce, boundary, ce, dice, "),
    (
        ["loss=ce+2*diec"],
        "loss=ce+2*diec: there is no loss 'diec'. Did you mean 'dice'? Losses: bce, boundary, ce, dice, ",
    ),
    (["loss=ce+ce"], "loss=ce+ce: 'ce' stands there more than once."),
    (["data=camvit"], "there is no dataset 'camvit'. Did you mean 'camvid'? Datasets: ade20k, camvid, "),
    (["model="], "model=: a model is missing behind the '='"),
    (["model=3"], "model=3: a model is chosen by its name. Models: "),
    (["modle=unet"], "modle=unet: there is no key 'modle'. Did you mean 'model'?"),
    (["lodaer.crop=1"], "there is no key 'lodaer.crop'. Did you mean 'loader.crop'?"),
    (["+lodaer.crop=1"], "lodaer.crop: there is no such key. Did you mean 'loader.crop'?"),
    (["batch_size=3"], "there is no key 'batch_size'. Did you mean 'loader.batch_size'?"),
    (["loader.batchsize=3"], "Did you mean 'loader.batch_size'? 'loader' has: crop, batch_size, "),
    (["seed=abc"], "seed=abc: it must be a whole number"),
    (
        ["loss=ce,dice"],
        "several values mean several runs, which need -m. Type segrun -m loss=ce,dice, or loss=ce+dice for their sum.",
    ),
    (["model=unet,fpn"], "several values mean several runs, which need -m. Type segrun -m model=unet,fpn."),
    (["seed=range(3)"], "several values mean several runs, which need -m. Type segrun -m seed=range(3)."),
    (["-m", "model=unet,unett"], "model=unett: there is no model 'unett'. Did you mean 'unet'?"),
    (["train", "foo"], "foo: an option is written as key=value, as in model=unet."),
    (["loader.crop=[32,32]", "loader.crop.x=3"], "loader.crop.x=3: 'x' is looked for in what is a list."),
    (["tags=[a"], "tags=[a: the value cannot be read."),
    (["+loss=dice"], "loss: it is chosen twice."),
    (["++loss=dice"], "++loss=dice: a choice is made without the '+' signs. Type: loss=dice"),
    (["+seed=3"], "+seed: the key is there already. Type seed=VALUE, without the '+'."),
    (["~loss"], "loss: a run needs one, and the config has none."),
    (["notes=???"], "notes: it has no value yet. Type notes=VALUE."),
    (["notes=${oc.env:NO_SUCH}"], "the environment variable NO_SUCH, which is not set."),
    (["eval"], "run: it has no value yet. Type run=RUN, where RUN is a run directory in outputs/."),
    (["eval", "/"], "/: a run directory is named by its key. Type run=/"),
    (["predict"], "input: it has no value yet. Type input=PATH, an image, a folder of images, or a pattern in quotes."),
    (["eval", "run=x", "slpit=val"], "there is no key 'slpit'. Did you mean 'split'?"),
    (["--config-dir", "nope"], "nope: there is no such folder."),
    (["--config-name", "nope"], "There is no config named 'nope'."),
    (["--multirum"], "--multirum: there is no such flag. Did you mean '--multirun'?"),
    (["--cfg"], "argument --cfg/-c: expected one argument."),
    (["list", "lossez"], "list lossez: there is no such group. Did you mean 'losses'?"),
    (["list", "--jsno"], "--jsno: there is no such flag. Did you mean '--json'?"),
    (["doctor", "now"], "now: there is no such flag."),
    (["--completion", "tcsh"], "type --completion bash, --completion zsh or --completion fish."),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=lambda value: " ".join(value)[:40])
def test_wrong_requests(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1, "one paragraph"


def test_a_wrong_request_is_answered_before_torch_is_imported() -> None:
    code = "import sys; from seg_cli import cli; status = cli.run(['seed=abc']); print(status, 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "2 False\n"


def test_choices_of_a_config_dir_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine" / "loss").mkdir(parents=True)
    (tmp_path / "mine" / "loss" / "contour.yaml").write_text("terms: {contour: {}}\nweights: {contour: 1}\n")
    assert cli.run(["--config-dir", "mine", "loss=ce+contuor"]) == 2
    assert "Did you mean 'contour'? Losses: bce, boundary, ce, contour, dice, " in capsys.readouterr().err


def test_errors_are_not_read_as_markup(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["model=unet", "name='[bold]a/b[/bold]'"]) == 2
    assert "name=[bold]a/b[/bold]: " in capsys.readouterr().err


def test_flags_may_stand_anywhere(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["loss=ce", "--cfg", "job", "seed=7", "-p", "seed"]) == 0
    assert capsys.readouterr().out.strip().endswith("7")


def test_the_config_is_shown() -> None:
    done = segrun("--cfg", "job", "loss=ce+2*dice", "-p", "loss.weights")
    assert done.stdout == "# @package loss.weights\nce: 1.0\ndice: 2.0\n"
    assert done.returncode == 0


def test_hydra_full_error_shows_the_traceback() -> None:
    done = segrun("model=unett", HYDRA_FULL_ERROR="1")
    assert done.returncode == 2
    assert done.stderr.startswith("Traceback")
    assert "\nerror: model=unett: " in done.stderr
    assert "Traceback" not in segrun("model=unett").stderr
    assert "Traceback" not in segrun("model=unett", HYDRA_FULL_ERROR="1", SEGRUN_TRACEBACKS="0").stderr


def test_a_sweep_tells_its_jobs_and_goes_on_after_an_error() -> None:
    lines = "+hydra.callbacks.jobs._target_=seg_cli.config.sweeps.JobLines"
    options = [] if "seg_cli.config.sweeps.JobLines" in segrun("--cfg", "hydra").stdout else [lines]
    done = segrun("-m", "seed=x,-1", "loss=ce,2*dice", *options)
    assert done.stdout.splitlines() == [
        "job 1 of 4: seed=x loss=ce",
        "job 2 of 4: seed=x loss=2*dice",
        "job 3 of 4: seed=-1 loss=ce",
        "job 4 of 4: seed=-1 loss=2*dice",
    ]
    assert "error: seed=-1: it must be" in done.stderr
    assert done.returncode == 2


def test_a_bug_is_shown_with_its_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(cli, "help_text", lambda _: 1 / 0)
    assert cli.run(["--help"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("Traceback")
    assert "ZeroDivisionError" in err
    assert err.endswith("Please report it with the lines above.\n")


def test_a_reader_that_has_enough_is_no_error() -> None:
    command = f"'{sys.executable}' -m seg_cli list | head -1"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_interrupt_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(_: str | None) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "help_text", interrupted)
    assert cli.run(["--help"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_an_interrupt_while_the_config_is_composed() -> None:
    slow = "import time; from seg_cli.config import schema; from seg_cli import cli"
    slow += "; schema.validate = lambda cfg: (print('validating', flush=True), [time.sleep(0.1) for _ in range(600)])"
    code = f"{slow}; cli.main(['seed=1'])"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # which jobs in the background ignore
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "validating\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, "interrupted\n")


def test_a_matrix_where_no_folder_can_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("outputs").write_text("a file")
    assert cli.run(["-m", "seed=0,1"]) == 2
    err = capsys.readouterr().err
    assert "the folder cannot be made (Not a directory). Work in a folder that you may write to." in err
    assert "Traceback" not in err


def test_a_group_of_training_is_no_group_of_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["check", "experiment=tour"]) == 2
    said = capsys.readouterr().err
    assert "experiment is for training; this verb has no such group" in said
    assert "+experiment" not in said
