"""Shell completion: the scripts for bash, zsh and fish, and what they ask segrun for at each Tab.

The answers come from the files of conf/ alone, without Hydra or torch, so that Tab does not wait.
"""

import re
from pathlib import Path

import yaml

from seg_cli.commands.help import VERBS
from seg_cli.config.choices import SUM_GROUPS, UPSAMPLINGS, choices, groups, nouns
from seg_cli.config.paths import conf_dir
from seg_cli.errors import UserError

_FLAGS = {
    "train": ("--multirun", "--cfg", "--config-dir", "--info", "--help"),
    "plan": (
        *("--time", "--largest-batch", "--find-lr"),
        *("--multirun", "--cfg", "--config-dir", "--info", "--help"),
    ),
    "eval": ("--multirun", "--cfg", "--config-dir", "--info", "--help"),
    "predict": ("--multirun", "--cfg", "--config-dir", "--info", "--help"),
    "export": ("--multirun", "--cfg", "--config-dir", "--info", "--help"),
    "tune": ("--cfg", "--config-dir", "--info", "--help"),
    "check": ("--sheet", "--multirun", "--cfg", "--config-dir", "--info", "--help"),
    "resume": ("--accept-changes", "--help"),
    "rerun": ("--verify", "--against", "--tolerance", "--help"),
    "status": ("--follow", "--help"),
    "cancel": ("--yes", "--help"),
    "report": ("--out", "--split", "--help"),
    "table": (
        *("--rows", "--columns", "--split", "--sort", "--show", "--per-class", "--underline-second", "--filter"),
        *("--allow", "--eval", "--level", "--format", "--out", "--check", "--figures", "--wandb", "--help"),
    ),
    "list": ("--json", "--config-dir", "--timm", "--cost", "--size", "--encoder", "--help"),
    "doctor": ("--json", "--help"),
}

_SCRIPTS = {
    "bash": """\
# Completion of segrun for bash. Put this line into ~/.bashrc:  eval "$(segrun --completion bash)"
_segrun() {
    local line="${COMP_LINE:0:COMP_POINT}" IFS=$'\\n'
    local word="${line##*[[:space:]]}"
    COMPREPLY=($("$1" --complete "$line" 2>/dev/null))
    # Bash takes '=' as the start of a new word, and wants only what follows it.
    [[ $word == *=* ]] && COMPREPLY=("${COMPREPLY[@]#"${word%"${word##*=}"}"}")
    [[ $word == *=* || ${COMPREPLY[0]} == *[=.] ]] && compopt -o nospace
    return 0
}
complete -o default -F _segrun segrun""",
    "zsh": """\
# Completion of segrun for zsh. Put this into ~/.zshrc, behind compinit:  eval "$(segrun --completion zsh)"
_segrun() {
    local -a found
    found=("${(@f)$(segrun --complete "$LBUFFER" 2>/dev/null)}")
    [[ -n "$found" ]] && compadd -Q -S '' -- $found || _files
}
compdef _segrun segrun""",
    "fish": """\
# Completion of segrun for fish:  segrun --completion fish > ~/.config/fish/completions/segrun.fish
complete -c segrun -a '(segrun --complete (commandline -cp) 2>/dev/null)'""",
}


def script(shell: str) -> str:
    """The completion script of a shell. Raises UserError for another shell than bash, zsh and fish."""
    if shell not in _SCRIPTS:
        raise UserError(f"--completion {shell}: type --completion bash, --completion zsh or --completion fish.")
    return _SCRIPTS[shell]


def candidates(line: str) -> list[str]:
    """What the last word of a command line (up to the cursor) may become.

    They are whole words; where a word goes on (``loader.``, ``model=``), up to its dot or equals sign.
    """
    words = line.split()[1:]
    current = words.pop() if words and not line[-1].isspace() else ""
    verb = words[0] if words and words[0] in VERBS else "train"
    if current.startswith("-"):
        found = list(_FLAGS[verb])
    elif verb == "list":
        found = [*(nouns(group)[1] for group in groups()), "upsamplings"]
    elif verb in ("doctor", "table", "report", "status", "cancel") or (verb in ("resume", "rerun") and len(words) == 1):
        found = []  # of these two, the shell knows the folders
    elif "=" in current:
        found = _values(current)
    else:
        found = [] if words else list(VERBS)
        found += _keys("train" if verb in ("resume", "rerun") else verb, words, depth=current.count("."))
    return [word for word in found if word.startswith(current)]


def _values(current: str) -> list[str]:
    """Choices behind ``group=``, and behind each ``+`` of a sum, ``*`` of a weight and ``,`` of a sweep."""
    key, _, value = current.partition("=")
    group = key.lstrip("+")
    separators = "[,+*]" if group in SUM_GROUPS else ","
    *before, _ = re.split(f"(?<={separators})", value)
    start = "".join(before)
    # A term stands once in a sum, and a choice once in a sweep; yet a sweep may hold a term in several sums.
    taken = re.split("[+*]", start.rpartition(",")[2]) if start.endswith(("+", "*")) else start.split(",")
    names = list(UPSAMPLINGS) if key == "model.upsample" else [choice.name for choice in choices(group)]
    return [f"{key}={start}{name}" for name in names if name not in taken]


def _keys(verb: str, words: list[str], depth: int) -> list[str]:
    """Groups and dotted keys as far as ``depth`` dots; a section that goes deeper ends in a dot."""
    primary = _load(conf_dir() / f"{verb}.yaml")
    if "train" in primary.get("defaults", []):  # a plan is of a training
        own = [default for default in primary.pop("defaults") if isinstance(default, dict)]
        primary = _load(conf_dir() / "train.yaml") | primary
        primary["defaults"] = [*primary["defaults"], *own]
    chosen: dict[str, str] = {}
    for default in primary.pop("defaults", []):
        chosen |= default if isinstance(default, dict) else {}
    chosen_groups = [group for group in groups() if group in chosen]
    for word in words:
        group, _, value = word.partition("=")
        chosen[group] = value
    settings = {key: value for key, value in primary.items() if key != "hydra"}
    for group in chosen_groups:
        for term in re.split("[+*]", str(chosen[group])):
            settings[group] = _merge(settings.get(group, {}), _load(conf_dir() / group / f"{term}.yaml"))
    found = [f"{group}=" for group in chosen_groups] if depth == 0 else []
    return found + [key for key in _dotted(settings, depth) if not key.rpartition(".")[2].startswith("_")]


def _merge(settings: object, more: object) -> object:
    if not isinstance(settings, dict) or not isinstance(more, dict):
        return more
    return settings | {key: _merge(settings.get(key), value) for key, value in more.items()}


def _dotted(settings: dict, depth: int, prefix: str = "") -> list[str]:
    found = []
    for key, value in settings.items():
        if not isinstance(value, dict):
            found.append(f"{prefix}{key}=")
        elif value:
            found += _dotted(value, depth - 1, f"{prefix}{key}.") if depth else [f"{prefix}{key}."]
    return found


def _load(path: Path) -> dict:
    loaded = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
    return loaded if isinstance(loaded, dict) else {}
