"""The tabs: every file here is one, and holds it as `TAB`; a tab whose verbs are not there is not shown.

A new tab is a new file; `ORDER` says where it stands, and others stand behind.
"""

import importlib
import pkgutil
from dataclasses import replace

from tokenry.app.forms import Tab

ORDER = (
    "cut",
    "weigh",
    "tune",
    "compress",
    "bytes",
    "explain",
    "plan",
    "select",
    "equal_information",
    "theory",
    "papers",
)


def all_tabs() -> list[Tab]:
    """The tabs with the forms whose verbs are there, in their order."""
    found = [module.name for module in pkgutil.iter_modules(__path__)]
    named = sorted(found, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))
    tabs: list[Tab] = [importlib.import_module(f"{__name__}.{name}").TAB for name in named]
    there = [replace(tab, forms=tuple(form for form in tab.forms if form.is_there)) for tab in tabs]
    return [tab for tab in there if tab.forms]
