"""Settings without the secrets among them: for files, for what leaves this machine, for whatever others read."""

import re
from collections.abc import Callable, Mapping
from typing import Any

_NAMES = re.compile(r"(?i)(^|[_-])(key|apikey|token|password|passwd|secret)s?([_-]|$)")

_SECRET = re.compile(r"(?i)(\b[\w.-]*(?:key|token|password|passwd|secret)[\w-]*\s*[=:]\s*)\S+|(?<=://)[^/\s@]+(?=@)")


def mask_secrets(text: str) -> str:
    """The text with the values of keys, tokens and passwords, and the user part of URLs, replaced by ***."""
    return _SECRET.sub(lambda match: (match.group(1) or "") + "***", text)


def mask_settings(settings: Any) -> Any:
    """Nested dicts and lists with ``***`` for secrets.

    They are texts whose key has the word key, token, password or secret in it, and what ``mask_secrets`` finds inside
    of other texts. Numbers are none.
    """
    return _masked(settings, "", lambda text, secret: "***" if secret else mask_secrets(text))


def without_secrets(settings: Any, environment: Mapping[str, str]) -> Any:
    """Settings for a file that a run is made again from.

    A secret that is the value of an environment variable becomes ``${oc.env:NAME}``, so that the file can be used
    wherever that variable is set; another one becomes ``***``. Inside of texts only those of URLs are looked for: to
    take "key=3" out of a run's name would change the run.
    """

    def mask(text: str, secret: bool) -> str:
        masked = "***" if secret else mask_secrets(text) if "://" in text else text
        names = (name for name, value in environment.items() if value == text) if masked != text else iter(())
        return next((f"${{oc.env:{name}}}" for name in names), masked)

    return _masked(settings, "", mask)


def is_masked(value: Any) -> bool:
    """Whether a secret was taken out of this value, and it cannot be used any more."""
    return isinstance(value, str) and (value == "***" or "://***@" in value or "=***" in value)


def _masked(settings: Any, key: str, mask: Callable[[str, bool], str]) -> Any:
    if isinstance(settings, Mapping):
        return {name: _masked(value, str(name), mask) for name, value in settings.items()}
    if isinstance(settings, list | tuple):
        return [_masked(value, "", mask) for value in settings]
    return mask(settings, bool(_NAMES.search(key))) if isinstance(settings, str) and settings else settings
