"""What the values of a profile have in common: numbers within bounds, texts that can be shown."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from analysis.numbers import no_truth_value

# All but line breaks and tabs; and those that change the direction of what follows
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
Number = BeforeValidator(no_truth_value)
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False), Number]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False), Number]
Count = Annotated[int, Field(ge=1), Number]
Share = Annotated[float, Field(ge=0, le=1), Number]


def without_control_characters(value: Any) -> Any:
    """The value, once its texts, those in a list or a mapping, too, can be shown on terminals and written into manifests.

    Raises ValueError for one that moves a cursor.
    """
    parts = [*value, *value.values()] if isinstance(value, dict) else value
    for text in parts if isinstance(parts, list) else [parts]:
        if isinstance(text, str) and (odd := _CONTROL.search(text)):
            raise ValueError(f"a text in it has the character U+{ord(odd[0]):04X}, which terminals act upon")
    return value
