"""Every error this package raises on purpose: one line that names what is wrong, what was expected, what was got."""


class AlmError(Exception):
    """Base of all errors raised on purpose; the command line prints one as a single line and exits with 2."""


class ParameterError(AlmError, ValueError):
    """An argument outside its range, of the wrong shape, or naming something that is not there."""


class AudioTypeError(AlmError, TypeError):
    """Audio that is not a NumPy array of 32-bit or 64-bit floats."""


class AudioFileError(AlmError):
    """A file that cannot be read, written, or used as a track."""


class ModelError(AlmError):
    """A model that is unknown, has no weights here, or whose file does not hold what its kind needs."""


class PluginError(AlmError):
    """A VST3 or AU plugin that is not there, cannot be hosted, or a preset that is not its own."""


class LatencyError(AlmError, ValueError):
    """A plugin that delays its signal where no latency is allowed, or that cannot run in a stream at all."""
