"""How a fact is declared."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
def fact(kind: type[T]) -> type[T]:
    """A frozen dataclass with slots and keywords, frozen by the type checker, which sees every line that there is.

    For Python it is a plain one: it makes a frozen one with a call per field, which takes 3 to 4 times as long (eight
    fields: 3.6 us against 1.3), and a picture meets some thirty facts on its way.
    """
    return dataclass(slots=True, kw_only=True, unsafe_hash=True)(kind)
