"""Methods by the names under which the command line and run files know them: `name:option=value,...` makes one.

A method registers itself where it is defined; the registry imports the files of its package when it is first asked, so that a method
is one file. Its options are the fields of its dataclass.

    WEIGHINGS = Registry("weighing", "tokenry.finetuning")

    @WEIGHINGS.register("small-loss")
    @dataclass(frozen=True)
    class SmallLoss(TokenWeighing): ...

    WEIGHINGS.make("small-loss:window=3")           # SmallLoss(window=3)
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar, get_type_hints

from tokenry.core.errors import UserError
from tokenry.core.io.descriptions import nearest, parse_description
from tokenry.core.io.settings import of_kind, parse_yaml

Method = TypeVar("Method")
Registered = TypeVar("Registered", bound=type)


@dataclass(frozen=True)
class Entry(Generic[Method]):
    """A method that can be made by name.

    Attributes:
        options: the dataclass whose fields are its options.
        make: makes one from its options; a type that it annotates itself overrides that of the field.
    """

    method: type[Method]
    options: Any
    make: Callable[..., Method]

    def kinds(self) -> dict[str, Any]:
        """The type of each option."""
        known = get_type_hints(self.options)
        known |= {} if self.make is self.method else get_type_hints(self.make)
        return {field.name: known[field.name] for field in fields(self.options)}


class Registry(Mapping[str, Entry[Method]], Generic[Method]):
    """The methods of one kind by name, in the order in which they were registered.

    Args:
        noun: what such a method is called in error messages.
        package: the package whose files register themselves, or the one file that registers all of them.
        first: names that come first, in this order.
    """

    def __init__(self, noun: str, package: str, first: tuple[str, ...] = ()) -> None:
        self._noun, self._package, self._first = noun, package, first
        self._entries: dict[str, Entry[Method]] = {}
        self._found = False

    def register(
        self, name: str, options: Any = None, make: Callable[..., Method] | None = None
    ) -> Callable[[Registered], Registered]:
        """Register a class under a name.

        Args:
            options: the dataclass of its options; None for the class itself.
            make: makes one from its options; None for the class itself.
        """

        def registered(method: Registered) -> Registered:
            self._entries[name] = Entry(method, options or method, make or method)
            return method

        return registered

    def __getitem__(self, name: str) -> Entry[Method]:
        entries = self._all()
        if name not in entries:
            raise UserError(
                f"there is no {self._noun} {name!r}{nearest(name, entries)}; there are {', '.join(self)}."
            )
        return entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._all()

    def __iter__(self) -> Iterator[str]:
        entries = self._all()
        return iter(dict.fromkeys([*(name for name in self._first if name in entries), *entries]))

    def __len__(self) -> int:
        return len(self._all())

    def name_of(self, method: object) -> str:
        """The name of an instance's class; the class's own name where it is not registered."""
        kind = type(method)
        return next((name for name, entry in self._all().items() if entry.method is kind), kind.__name__)

    def parse(self, description: str) -> tuple[str, dict[str, Any]]:
        """Split `name:option=value,...` into the name and the options, their values read as YAML.

        Raises:
            UserError: no such method or option (the nearest is suggested), or a value of another kind.
        """
        name, written = parse_description(description)
        kinds = self[name].kinds()
        options = {}
        for option, value in written.items():
            self._require_option(name, option, kinds)
            options[option] = self._read(name, option, parse_yaml(value, f"{name}:{option}"), kinds)
        return name, options

    def make(self, description: str, **options: Any) -> Method:
        """Make a method from its description, and more options.

        Raises:
            UserError: as `parse`, an option that the method has not or that is given twice, or one that it refuses.
        """
        name, given = self.parse(description)
        kinds = self[name].kinds()
        for option, value in options.items():
            self._require_option(name, option, kinds)
            if option in given:
                raise UserError(f"{option} is given twice: once is enough.")
            given[option] = self._read(name, option, value, kinds)
        return self[name].make(**given)

    def _require_option(self, name: str, option: str, kinds: Mapping[str, Any]) -> None:
        if option not in kinds:
            raise UserError(
                f"{name} has no option {option!r}{nearest(option, kinds)}; it has {', '.join(sorted(kinds))}."
            )

    def _read(self, name: str, option: str, value: Any, kinds: Mapping[str, Any]) -> Any:
        # As a list, [13, -1.0] would be read as two whole numbers where a pair of a count and a fraction is meant.
        plain = tuple(value) if isinstance(value, list) else value
        return of_kind(kinds[option], plain, f"{name}:{option}")

    def _all(self) -> dict[str, Entry[Method]]:
        if not self._found:
            self._found = True
            package = importlib.import_module(self._package)
            for module in pkgutil.iter_modules(getattr(package, "__path__", ())):
                importlib.import_module(f"{self._package}.{module.name}")
        return self._entries
