"""Settings without the secrets among them, for whatever leaves this machine or is read by others."""

import re
from collections.abc import Mapping
from typing import Any

from seg_cli.runs.environment import mask_secrets

_NAMES = re.compile(r"(?i)(^|[_-])(key|apikey|token|password|passwd|secret)s?([_-]|$)")


def mask_settings(settings: Any) -> Any:
    """Nested dicts and lists with ``***`` for secrets.

    They are texts whose key has the word key, token, password or secret in it, and what ``mask_secrets`` finds inside
    of other texts. Numbers are none.
    """
    if isinstance(settings, Mapping):
        return {
            key: "***" if isinstance(value, str) and value and _NAMES.search(str(key)) else mask_settings(value)
            for key, value in settings.items()
        }
    if isinstance(settings, list | tuple):
        return [mask_settings(value) for value in settings]
    return mask_secrets(settings) if isinstance(settings, str) else settings
