import numpy as np
import pedalboard
import pytest

from alm_plugin.errors import AudioTypeError, ParameterError
from alm_plugin.nodes.gain import Gain
from alm_plugin.nodes.node import Node, Parameter

RATE = 48_000


class Count(Node):
    """A user's node: adds the number of each sample since the stream's start, 1000 per channel."""

    step = Parameter(0.0, 10.0)

    def __init__(self, step=1.0, label="x"):
        self.step = step
        self.label = label
        self.reset()

    def reset(self):
        self._at = 0

    def process_block(self, x, sample_rate):
        assert x.ndim == 2
        assert x.dtype == np.float32
        assert x.flags.c_contiguous
        n = np.arange(self._at, self._at + x.shape[1])
        self._at += x.shape[1]
        x += np.float32(self.step) * n + 1000 * np.arange(len(x))[:, None]  # forbidden, and still no harm to the caller
        return x


@pytest.mark.parametrize(
    ("shape", "turned"),
    [((1, 9), False), ((2, 9), False), ((9, 1), True), ((9, 2), True), ((3, 40), False), ((40, 33), True)],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_layouts_mean_what_they_mean_to_pedalboard(shape, turned, dtype):
    x = np.zeros(shape, dtype)
    out = Count()(x, RATE)
    assert out.shape == shape
    assert out.dtype == np.float32
    assert out.flags.c_contiguous
    assert (x == 0).all()
    rows = out.T if turned else out
    want = np.arange(rows.shape[1]) + 1000 * np.arange(len(rows))[:, None]
    np.testing.assert_array_equal(rows, want)
    # pedalboard tells its reading by the delay line it runs along.
    impulse = np.zeros(shape, dtype)
    impulse[0, 0] = 1.0
    theirs = pedalboard.Delay(delay_seconds=1 / 8000, feedback=0, mix=1.0)(impulse, 8000)
    assert theirs[1 if turned else 0, 0 if turned else 1] == 1.0


def test_one_dimension_in_one_dimension_out():
    np.testing.assert_array_equal(Count()(np.zeros(5), RATE), [0, 1, 2, 3, 4])


@pytest.mark.parametrize("shape", [(0,), (0, 2), (2, 0)])
def test_nothing_in_nothing_out(shape):
    out = Count()(np.zeros(shape, np.float32), RATE)
    assert out.shape == pedalboard.Gain()(np.zeros(shape, np.float32), RATE).shape == shape


def test_a_square_block_is_read_like_the_one_before():
    node = Count()
    with pytest.raises(ParameterError, match=r"input_array must not be square .* got \(2, 2\)"):
        node(np.zeros((2, 2), np.float32), RATE)
    node(np.zeros((2, 5), np.float32), RATE)
    np.testing.assert_array_equal(node(np.zeros((2, 2), np.float32), RATE), [[0, 1], [1000, 1001]])
    node(np.zeros((5, 2), np.float32), RATE)
    np.testing.assert_array_equal(node(np.zeros((2, 2), np.float32), RATE), [[0, 1000], [1, 1001]])


def test_a_tall_block_of_a_wide_stream_keeps_its_channels():
    node = Count()
    node(np.zeros((2, 5), np.float32), RATE)
    np.testing.assert_array_equal(node(np.zeros((2, 1), np.float32), RATE), [[0], [1000]])


@pytest.mark.parametrize("buffer_size", [1, 3, 10, 8192, np.int64(4)])
def test_reset_and_pieces(buffer_size):
    node = Count()
    x = np.zeros((2, 10), np.float32)
    for _ in range(2):
        np.testing.assert_array_equal(node(x, RATE, buffer_size)[0], np.arange(10))
    np.testing.assert_array_equal(node.process(x, RATE, buffer_size, reset=False)[0], np.arange(10, 20))
    node.reset()
    np.testing.assert_array_equal(node.process(x, RATE, buffer_size, reset=False)[0], np.arange(10))


@pytest.mark.parametrize("bad", [np.zeros(4, np.int16), np.zeros(4, np.float16), np.zeros(4, np.complex64), [0.0, 1.0]])
def test_only_floats(bad):
    with pytest.raises(AudioTypeError, match="only supports 32-bit and 64-bit floating point audio for processing"):
        Count()(bad, RATE)
    with pytest.raises(TypeError):
        Count()(bad, RATE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((2, 2, 2), np.float32), RATE), "input_array must have 1 or 2 dimensions, got 3"),
        ((np.zeros(2, np.float32), 4000), r"sample_rate must be a whole number in \[8000, 192000\] Hz, got 4000"),
        ((np.zeros(2, np.float32), "fast"), "sample_rate must be a number in Hz, got 'fast'"),
        ((np.zeros(2, np.float32), RATE, 0), "buffer_size must be a whole number >= 1, got 0"),
        ((np.zeros(2, np.float32), RATE, 1.5), "buffer_size must be a whole number >= 1, got 1.5"),
    ],
)
def test_refusals_change_nothing(arguments, message):
    node = Count()
    node(np.zeros(3, np.float32), RATE)
    with pytest.raises(ParameterError, match=message):
        node(*arguments)
    assert node.process(np.zeros(1, np.float32), RATE, reset=False)[0] == 3.0


def test_a_misspelt_attribute_is_refused():
    node = Count()
    with pytest.raises(AttributeError, match=r"'.*\.Count' object has no attribute 'stepp', only label, step"):
        node.stepp = 2.0
    with pytest.raises(AttributeError, match="has no attribute 'gain_dB', only gain_db, ramp_ms"):
        Gain().gain_dB = 2.0
    node.step = 2.0
    node.label = "y"
    node._private = 3
    np.testing.assert_array_equal(node(np.zeros(3), RATE), [0, 2, 4])


def test_a_subclass_of_a_finished_node_may_add_attributes():
    class Louder(Gain):
        def __init__(self, extra_db=1.0):
            super().__init__(extra_db)
            self.extra_db = extra_db

    louder = Louder(6.0)
    assert louder(np.ones(1), RATE)[0] == pytest.approx(10**0.3)
    with pytest.raises(AttributeError):
        louder.extra = 1.0


def test_a_node_must_process():
    with pytest.raises(TypeError, match="process_block"):
        Node()  # type: ignore[abstract]


def test_a_node_that_loses_samples_is_found():
    class Short(Node):
        def process_block(self, x, sample_rate):
            return x[:, 1:]

    with pytest.raises(ParameterError, match=r"Short must return blocks of \(channels, 8\), got \(1, 7\)"):
        Short()(np.zeros(8), RATE)


def test_a_node_in_float64_comes_out_as_float32():
    class Half(Node):
        def process_block(self, x, sample_rate):
            return x * np.float64(0.5)

    assert Half()(np.ones(8), RATE).dtype == np.float32


def test_looks_like_a_plugin():
    node = Count(2.5, "a")
    assert node.is_effect
    assert not node.is_instrument
    assert node.reported_latency_samples == 0
    assert repr(node) == f"<{__name__.partition('.')[0]}.Count step=2.5 label='a' at {hex(id(node))}>"
    assert repr(Gain()).startswith("<alm_plugin.Gain gain_db=0.0 ramp_ms=20.0 at 0x")


@pytest.mark.parametrize("bad", [-0.1, 10.5, np.nan, "1", None])
def test_parameter_ranges(bad):
    with pytest.raises(ParameterError, match=r"step must be in \[0, 10\], got"):
        Count(bad)
    node = Count()
    with pytest.raises(ValueError, match="step"):
        node.step = bad
    assert node.step == 1.0
