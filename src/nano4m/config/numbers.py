"""Numbers of the configuration: each is finite and in a range that its field gives.

``Annotated[float, Range(0, 10, above=True)]`` reads, checks and explains a number. The range stands
outside what may be given instead of a number: ``Annotated[int | None, Range(1, 1024)]``.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic import GetCoreSchemaHandler, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

NUMBERS = (int, float)


@dataclass(frozen=True)
class Range:
    """What a number may be: it is finite, and from ``low`` to ``high``.

    Attributes:
        low, high: Ends of the range.
        above, below: Whether ``low``, or ``high``, itself is left out.
        or_zero: Whether 0 is allowed, too.
        note: What to write instead where somebody may have meant it: "none: no limit".
    """

    low: float
    high: float
    above: bool = False
    below: bool = False
    or_zero: bool = False
    note: str = ""

    def holds(self, number: float) -> bool:
        """Return whether a number is in the range; one that is not finite never is."""
        if self.or_zero and number == 0:
            return True
        over = number > self.low if self.above else number >= self.low
        return over and (number < self.high if self.below else number <= self.high)

    def says(self, kind: Any) -> str:
        """Return what a field of a type may be, after "must be"."""
        begin = "a whole number" if int in _members(kind) else "a finite number"
        low = f"above {_number(self.low)} and" if self.above else f"from {_number(self.low)} to"
        upto = "below " if self.below else "at most " if self.above else ""
        said = [f"{begin} {low} {upto}{_number(self.high)}", *_words(kind)]
        if self.or_zero:
            said.insert(0, "0")
        return ", or ".join(said) + (f"; {self.note}" if self.note else "")

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Return the schema of the type with this range, and one message for all mistakes."""
        says = self.says(source)

        def read(value: Any, convert: Any) -> Any:
            if isinstance(value, bool):
                raise _refused(says)
            try:
                found = convert(value)
            except ValidationError:
                raise _refused(says) from None
            if isinstance(found, NUMBERS) and not self.holds(found):
                raise _refused(says)
            return found

        return core_schema.no_info_wrap_validator_function(read, handler(source))


def _refused(says: str) -> PydanticCustomError:
    return PydanticCustomError("out_of_range", "must be {range}", {"range": says})


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else f"{value:g}"


def _members(kind: Any) -> tuple[Any, ...]:
    """Return the types of a union, or the type."""
    return tuple(get_args(kind)) if get_args(kind) and get_origin(kind) is not Literal else (kind,)


def _words(kind: Any) -> Iterator[str]:
    """Yield what may be given instead of a number: words, and none."""
    for member in _members(kind):
        if get_origin(member) is Literal:
            yield from map(str, get_args(member))
        elif member in (None, type(None)):
            yield "none"


def ranges(kind: Any, metadata: Any = ()) -> Iterator[tuple[Any, Range | None]]:
    """Yield type and range of each number in a type: of a union or tuple, of values of a dict.

    A number without a range has None. Models inside are not looked into.
    """
    own = [m for m in metadata if isinstance(m, Range)]
    inner = [m for m in metadata if isinstance(m, FieldInfo)]
    if inner and not own:
        own = [m for field in inner for m in field.metadata if isinstance(m, Range)]
    if hasattr(kind, "__metadata__"):
        yield from ranges(kind.__origin__, [*kind.__metadata__, *own])
    elif own:
        yield kind, own[0]
    elif kind in NUMBERS:
        yield kind, None
    elif get_origin(kind) is not Literal:
        for member in get_args(kind):
            yield from ranges(member)
