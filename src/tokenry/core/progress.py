"""How a long job tells how far it is: `progress("training", 0.4)`."""

from collections.abc import Callable

Progress = Callable[[str, float], None]
"""Called with what is being done, and the share of the whole that is done, in [0, 1]."""
