"""Config files of thousands of runs, which hold the same sections over and over."""

import re
from typing import Any

import yaml

SAFE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Reads YAML into plain values and executes nothing; by the parser in C where that is there, which is quicker."""
_SECTION = re.compile(r"^(?=[^\s#-])", re.MULTILINE)
"""Where a key of the top level begins in a YAML file as OmegaConf writes it."""


class Sections:
    """The top-level sections of config files, each text kept and parsed once however many runs have it."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._numbers: dict[str, int] = {}
        self._parsed: dict[int, dict[str, Any]] = {}

    def add(self, config: str) -> list[int]:
        """Take a config file apart; returns the numbers of its sections."""
        return [self.number(text) for text in _SECTION.split(config) if text.strip()]

    def number(self, text: str) -> int:
        """Of a section, which is the same for the same text."""
        number = self._numbers.setdefault(text, len(self.texts))
        if number == len(self.texts):
            self.texts.append(text)
        return number

    def key(self, number: int) -> str:
        """What a section is called."""
        return self.texts[number].partition(":")[0]

    def parse(self, number: int) -> dict[str, Any]:
        """A section as ``{key: value}``. Raises ValueError if it is not YAML."""
        if number not in self._parsed:
            try:
                value = yaml.load(self.texts[number], SAFE)
            except yaml.YAMLError as error:
                raise ValueError(f"not YAML: {str(error).splitlines()[0]}") from None
            self._parsed[number] = value if isinstance(value, dict) else {}
        return self._parsed[number]
