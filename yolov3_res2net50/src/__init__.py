"""The network, data, schedules and runtime of this folder; importing it sets the environment for MindSpore."""

from . import model_utils  # noqa: F401
