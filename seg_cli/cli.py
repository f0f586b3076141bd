"""The door: which verb it is, what is loaded for it, and how errors are told to people.

Nothing here imports torch: help, completion, ``list`` and wrong options answer before it would be loaded.
"""

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NoReturn

from seg_cli import __version__
from seg_cli.commands.help import VERBS, help_text
from seg_cli.config.choices import choices, groups
from seg_cli.config.paths import conf_dir
from seg_cli.config.suggest import did_you_mean
from seg_cli.errors import SegrunError, UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

_HYDRA_VERBS: Mapping[str, Mapping[str, str]] = {
    "train": {},
    "plan": {
        "--time": "plan.time=true",
        "--largest-batch": "plan.largest_batch=true",
        "--find-lr": "plan.find_lr=true",
    },
    "eval": {},
    "check": {"--sheet": "sheet=true"},
    "predict": {"model=": "model.file="},  # model=NAME would choose from the group of that name
    "export": {},
    "tune": {},
}
"""Verbs of ``conf/<verb>.yaml``, each with flags of its own and the settings that they are short for."""

_MEANT: Mapping[str, str] = {
    **dict.fromkeys(("compare", "leaderboard", "results"), "table"),
    **dict.fromkeys(("test", "score", "evaluate", "val"), "eval"),
    **dict.fromkeys(("fit", "run", "demo"), "train"),
    **dict.fromkeys(("infer", "inference"), "predict"),
    **dict.fromkeys(("explain", "show", "config"), "plan"),
    **dict.fromkeys(("sweep", "search"), "tune"),
}
"""What other programs call our verbs, where the spelling gives no hint."""

_TRACEBACKS = "SEGRUN_TRACEBACKS"
"""Environment variable: "1" where the user asked for tracebacks. Workers and subprocesses inherit it."""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run a command line (by default the one of this process) and exit with its status."""
    sys.exit(run(sys.argv[1:] if argv is None else argv))


def run(argv: Sequence[str]) -> int:
    """Run a command line without the program's name, and return its exit status.

    0 done, 1 the run failed, 2 the request was wrong, 130 interrupted.
    """
    _take_over_hydras_errors()
    try:
        status = _dispatch(list(argv))
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader had enough, as in: segrun list | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt as interrupt:
        _say(". ".join(["interrupted", *getattr(interrupt, "__notes__", [])]))
        return 130
    except _JobEnded as ended:
        return _tell(ended.error, argv)
    except Exception as error:
        return _tell(error, argv)


def _dispatch(argv: list[str]) -> int:
    if not argv or _starts_with_an_option(argv[0]):
        if argv and argv[0] in ("-h", "--help"):
            return _help(None)
        if argv and argv[0] == "--version":
            print(f"segrun {__version__}")
            return 0
        if argv and argv[0] in ("--completion", "--complete"):
            return _completion(argv[0], argv[1:])
        return _run_hydra("train", argv)
    verb, rest = argv[0], argv[1:]
    if verb == "help":  # what other programs have; ours is --help
        return _help(next((word for word in rest if word in VERBS), None))
    if verb not in VERBS:
        raise UserError(_no_such_verb(verb, rest))
    if "-h" in rest or "--help" in rest:
        return _help(verb)
    if verb in _HYDRA_VERBS:
        return _run_hydra(verb, rest)
    status: int = importlib.import_module(f"seg_cli.commands.{verb}").main(rest)
    return status


def _starts_with_an_option(argument: str) -> bool:
    return argument.startswith(("-", "+", "~")) or "=" in argument


def _no_such_verb(verb: str, rest: Sequence[str]) -> str:
    if verb in groups():
        value = next((word.lstrip("=") for word in rest if word != "="), "") or choices(verb)[0].name
        return f"{verb}: an option is written as key=value, without blanks. Type: segrun {verb}={value}"
    for group in groups():
        if verb in (choice.name for choice in choices(group)):
            return f"{verb}: an option is written as key=value. Type: segrun {group}={verb}"
    hint = f" Did you mean '{_MEANT[verb]}'?" if verb in _MEANT else did_you_mean(verb, VERBS)
    return f"{verb}: there is no such verb.{hint} Verbs: {', '.join(VERBS)}. See: segrun --help"


def _help(verb: str | None) -> int:
    print(help_text(verb))
    return 0


def _completion(flag: str, rest: list[str]) -> int:
    from seg_cli.commands import completion

    if flag == "--completion":
        print(completion.script(rest[0] if rest else ""))
    else:
        print("\n".join(completion.candidates(rest[0] if rest else "")))
    return 0


# Hydra


def _task(verb: str) -> "Callable[[DictConfig], float | None]":
    """What Hydra runs for each job of a verb; launchers send it to their workers."""

    def job(cfg: "DictConfig") -> float | None:
        return _job(verb, cfg)

    return job


def _run_hydra(verb: str, argv: list[str]) -> int:
    """Compose the config of ``conf/<verb>.yaml`` and the options, and run the verb on it (or obey a flag)."""
    if "-h" in argv or "--help" in argv:
        return _help(verb)
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

    import hydra.version
    from hydra._internal.utils import _run_hydra as compose_and_run
    from hydra._internal.utils import get_args_parser

    from seg_cli.commands import launchers, matrix
    from seg_cli.config import sums

    parser = get_args_parser()
    switches = _HYDRA_VERBS[verb]
    flags = _parse(parser, [_in_full(argument, switches) for argument in argv], switches)
    if verb == "tune" and flags.multirun:
        raise UserError("-m: segrun tune starts its trials itself, without -m. Type workers=4 for four at a time.")
    if verb == "train" and _names_a_benchmark(flags):
        flags.multirun = True
    hydra.version.setbase("1.3")
    sums.register()
    matrix.register()
    launchers.register()
    if "SEGRUN_PARENT" in os.environ:  # another process of one run, whose choices may be those of a matrix
        flags.overrides.append("hydra.mode=RUN")
    # What hydra.main() does, but with flags that may stand anywhere, and with sys.argv left as it is: the
    # processes that Lightning starts for more GPUs repeat it.
    compose_and_run(
        args=flags,
        args_parser=parser,
        task_function=_task(verb),
        config_path=str(conf_dir()),
        config_name=verb,
    )
    return 0


def _names_a_benchmark(flags: argparse.Namespace) -> bool:
    """Whether jobs are to be run, and are those of a benchmark, which is a matrix with or without -m."""
    overrides = [str(override).lstrip("+") for override in flags.overrides]
    other = flags.run or flags.cfg or flags.info or flags.hydra_help or flags.shell_completion
    modes = [override for override in overrides if override.startswith("hydra.mode=")]
    named = any(override.startswith("benchmark=") and override != "benchmark=null" for override in overrides)
    return named and not other and not modes and "SEGRUN_PARENT" not in os.environ


def _in_full(argument: str, switches: Mapping[str, str]) -> str:
    key, equals, value = argument.partition("=")
    return switches.get(key + equals, key + equals) + value if equals else switches.get(argument, argument)


def _parse(parser: argparse.ArgumentParser, argv: list[str], switches: Iterable[str]) -> argparse.Namespace:
    known = [*switches, *(flag for action in parser._actions for flag in action.option_strings)]

    def refuse(message: str) -> NoReturn:
        unknown = message.partition("unrecognized arguments: ")[2].split(" ")[0]
        if not unknown:
            raise UserError(f"{message}. See: segrun --help")
        name = unknown.lstrip("-").partition("=")[0]
        hint = "" if name in groups() else did_you_mean(unknown, known)
        raise UserError(
            f"{unknown}: there is no such flag.{hint} "
            f"Settings are written without dashes, as in {name}=VALUE. See: segrun --help"
        )

    parser.error = refuse  # type: ignore[method-assign]
    flags = parser.parse_intermixed_args(argv)
    if flags.experimental_rerun is not None:
        raise UserError("--experimental-rerun: segrun keeps no pickled jobs. Use a run's config.yaml.")
    return flags


def _job(verb: str, cfg: "DictConfig") -> float | None:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    try:
        if verb == "train" and HydraConfig.get().mode is RunMode.MULTIRUN:
            from seg_cli.commands import multirun

            return multirun.run(cfg)
        from seg_cli.config import schema

        validate = getattr(schema, "validate" if verb == "train" else f"validate_{verb}")
        validate(cfg)  # before the command imports torch
        result: float | None = importlib.import_module(f"seg_cli.commands.{verb}").run(cfg)
        return result
    except Exception as error:
        if HydraConfig.get().mode is RunMode.RUN:
            raise _JobEnded(error) from error
        _tell(error)  # the other jobs of the sweep go on, and Hydra raises the first error at the end
        raise


class _JobEnded(BaseException):
    """Carries the error of a single run through Hydra, which would put a line of its own in front of ours."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


# Errors


def _take_over_hydras_errors() -> None:
    """Have Hydra raise its errors instead of printing them; remember whether the user wants tracebacks."""
    os.environ.setdefault(_TRACEBACKS, os.environ.get("HYDRA_FULL_ERROR", "0"))
    os.environ["HYDRA_FULL_ERROR"] = "1"


def _tell(error: Exception, argv: Sequence[str] = ()) -> int:
    """Say what went wrong on stderr, and return the exit status."""
    told: SegrunError | None
    if "hydra" in sys.modules:
        from seg_cli.config.explain import explain

        told = explain(error, argv)
    else:
        told = error if isinstance(error, SegrunError) else None
    if told is None or os.environ.get(_TRACEBACKS) == "1":
        traceback.print_exception(error)
    if told is None:
        _say("This is a bug in segrun, or in a component of yours. Please report it with the lines above.")
        return 1
    _say(" ".join([str(told), *getattr(error, "__notes__", [])]), title="error: ")
    return told.exit_status


def _say(message: str, title: str = "") -> None:
    """One paragraph on stderr, wrapped where it is a terminal, and never read as markup."""
    from rich.console import Console
    from rich.text import Text

    from seg_cli.config.visible import visible_lines

    console = Console(stderr=True, highlight=False)
    console.print(Text.assemble((title, "bold red"), visible_lines(message)), soft_wrap=not console.is_terminal)
