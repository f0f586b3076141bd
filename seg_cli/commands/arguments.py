"""Flags of the plain verbs."""

import argparse
from typing import NoReturn

from seg_cli.config.suggest import did_you_mean
from seg_cli.errors import UserError


class Parser(argparse.ArgumentParser):
    """An argument parser that raises ``UserError`` for what it does not understand, with did-you-mean."""

    def __init__(self, verb: str) -> None:
        super().__init__(prog=f"segrun {verb}", add_help=False, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        flags = [flag for action in self._actions for flag in action.option_strings]
        unknown = message.partition("unrecognized arguments: ")[2].split(" ")[0]
        problem = f"{unknown}: there is no such flag.{did_you_mean(unknown, flags)}" if unknown else f"{message}."
        raise UserError(f"{self.prog}: {problem} Flags: {', '.join(flags)}. See: {self.prog} --help")
