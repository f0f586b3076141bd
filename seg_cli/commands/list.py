"""``segrun list``: what there is to choose from, with a line on each. Reads the files of conf/ alone."""

import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from seg_cli.commands.arguments import Parser
from seg_cli.config.choices import UPSAMPLINGS, Choice, choices, groups, nouns
from seg_cli.config.suggest import did_you_mean
from seg_cli.errors import UserError

_UPSAMPLE = "model.upsample"
_MORE_ENCODERS = "  Any other of timm: encoder.name=NAME. Search: segrun list encoders --timm 'convnext*'"


def main(argv: Sequence[str]) -> int:
    parser = Parser("list")
    parser.add_argument("groups", nargs="*")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--config-dir", type=Path)
    parser.add_argument("--timm", metavar="PATTERN")
    parser.add_argument("--cost", action="store_true")
    parser.add_argument("--size", metavar="HEIGHTxWIDTH")
    parser.add_argument("--encoder", metavar="NAME")
    options = parser.parse_intermixed_args(argv)

    if options.config_dir and not options.config_dir.is_dir():
        raise UserError(f"--config-dir {options.config_dir}: there is no such folder.")
    extra = [options.config_dir] if options.config_dir else []
    if options.timm is not None:
        return _search_timm(options.groups, options.timm, options.json)
    if options.cost or options.size or options.encoder:
        if not options.cost or [_group(name, groups(extra)) for name in options.groups] != ["model"]:
            flag = "--cost" if options.cost else "--size" if options.size else "--encoder"
            raise UserError(f"{flag}: it is for the cost of models. Type: segrun list models --cost")
        from seg_cli.commands import list_cost  # brings torch, so only here

        size = options.size or list_cost.DEFAULT_SIZE
        return list_cost.show(size, options.encoder, extra, options.json)

    wanted = [_group(name, groups(extra), _UPSAMPLE) for name in options.groups] or groups(extra)
    if options.json:
        found = {
            group: UPSAMPLINGS if group == _UPSAMPLE else {c.name: c.line for c in choices(group, extra)}
            for group in wanted
        }
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return 0
    for number, group in enumerate(wanted):
        if group == _UPSAMPLE:
            _print_upsamplings(number)
            continue
        print(f"{'' if number == 0 else chr(10)}{nouns(group)[1].capitalize()}: {group}=...")
        for _, family in groupby(choices(group, extra), key=lambda choice: choice.name.rpartition("/")[0]):
            _print_lines(list(family))
        if group == "encoder":
            print(_MORE_ENCODERS)
            if not options.groups:
                _print_upsamplings(number)
    return 0


def _print_upsamplings(number: int) -> None:
    """The operators, which are a setting of a model and no group, as a group is shown."""
    print(f"{'' if number == 0 else chr(10)}Upsamplings: {_UPSAMPLE}=...")
    width = max(map(len, UPSAMPLINGS))
    for name, line in UPSAMPLINGS.items():
        print(f"  {name:<{width}}  {line}")


def _print_lines(found: Sequence[Choice]) -> None:
    """A line on each choice, the descriptions below one another."""
    width = max(len(choice.name) for choice in found)
    for choice in found:
        print(f"  {choice.name:<{width}}  {choice.line}".rstrip())


def _group(name: str, known: Sequence[str], *settings: str) -> str:
    """The group that goes by this name: its own, what one of its choices is called, or several.

    Args:
        name: as it was typed.
        known: the groups.
        settings: ``model.upsample``, where it is shown like a group.
    """
    names = {word: group for group in known for word in (group, f"{group}s", *nouns(group))}
    names |= {word: key for key in settings for word in (key, "upsample", "upsampling", "upsamplings")}
    if name.lower() not in names:
        hint = did_you_mean(name, names)
        raise UserError(f"list {name}: there is no such group.{hint} Groups: {', '.join(known)}.")
    return names[name.lower()]


def _search_timm(named: Sequence[str], pattern: str, as_json: bool) -> int:
    if [_group(name, groups()) for name in named] != ["encoder"]:
        raise UserError(f"--timm searches encoders. Type: segrun list encoders --timm '{pattern}'")
    import timm  # brings torch, so only here

    pretrained = {name.partition(".")[0] for name in timm.list_pretrained()}
    names = timm.list_models(pattern)
    if not names:
        raise UserError(f"--timm '{pattern}': timm has no such model. Use * for any letters, as in '*resnet*'.")
    if as_json:
        print(json.dumps({name: {"imagenet": name in pretrained} for name in names}, indent=2))
        return 0
    width = max(map(len, names))
    print("Encoders of timm: encoder.name=...")
    for name in names:
        note = "with encoder.weights=imagenet" if name in pretrained else ""
        print(f"  {name:<{width}}  {note}".rstrip())
    return 0
