"""The names that the callbacks of the runtime are written with."""


class Callback:
    """Without events."""


class RunContext:
    """Never made."""
