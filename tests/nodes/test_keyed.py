import numpy as np
import pedalboard
import pytest

from alm_plugin import Chain, Keyed, ParameterError, SidechainCompressor
from alm_plugin.nodes.keyed import keyed_in

RATE = 48_000


def slowly(x, side, threshold_db, ratio, attack_ms, release_ms):
    """Compress sample by sample, one number at a time."""
    threshold = 10 ** (threshold_db / 20)
    levels, out = [0.0] * len(side), np.zeros_like(x)
    for i in range(x.shape[1]):
        for row, s in enumerate(side[:, i]):
            ms = attack_ms if abs(s) > levels[row] else release_ms
            pole = np.exp(-2_000 * np.pi / (ms * RATE)) if ms else 0.0
            levels[row] = abs(s) + pole * (levels[row] - abs(s))
        for channel in range(len(x)):
            level = levels[channel] if len(side) == len(x) else max(levels)
            over_db = 20 * np.log10(max(level, 1e-30) / threshold)
            out[channel, i] = x[channel, i] * 10 ** (-max(over_db, 0.0) * (1 - 1 / ratio) / 20)
    return out


@pytest.mark.parametrize("settings", [(-30, 4, 5, 100), (-10, 2, 0, 20), (-20, 10, 1, 300)])
@pytest.mark.parametrize("channels", [1, 2])
def test_without_a_key_it_is_pedalboards_compressor(rng, settings, channels):
    x = (0.3 * rng.standard_normal((channels, RATE))).astype(np.float32)
    np.testing.assert_allclose(
        SidechainCompressor(None, *settings)(x, RATE), pedalboard.Compressor(*settings)(x, RATE), atol=2e-6
    )


@pytest.mark.parametrize(("channels", "sides"), [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_with_a_key_it_is_the_slow_one(rng, channels, sides):
    x, side = (0.3 * rng.standard_normal((n, 2_000)).astype(np.float32) for n in (channels, sides))
    node = SidechainCompressor("k", -25, 3, 2, 50)
    parts = []
    for start, stop in ((0, 1), (1, 700), (700, 2_000)):
        node.hear_key(side[:, start:stop])
        parts.append(node.process_block(x[:, start:stop], RATE))
    np.testing.assert_allclose(np.concatenate(parts, axis=1), slowly(x, side, -25, 3, 2, 50), rtol=1e-5, atol=1e-7)


def test_a_key_is_used_once_and_only_if_it_fits(rng):
    class Both(Keyed):
        def process_block(self, x, sample_rate):
            return x + self.side(x)

    node, x = Both("other"), rng.standard_normal((1, 8)).astype(np.float32)
    node.hear_key(np.ones((1, 8), np.float32))
    np.testing.assert_array_equal(node.process_block(x, RATE), x + 1)
    np.testing.assert_array_equal(node.process_block(x, RATE), 2 * x)
    node.hear_key(np.ones((1, 7), np.float32))
    np.testing.assert_array_equal(node.process_block(x, RATE), 2 * x)


def test_keyed_nodes_are_found_in_chains():
    inner, outer, deaf = SidechainCompressor("a"), SidechainCompressor("b"), SidechainCompressor()
    assert keyed_in(Chain([pedalboard.Gain(), Chain([inner, deaf]), None, outer])) == [inner, outer]


@pytest.mark.parametrize(("name", "value"), [("ratio", 0.5), ("threshold_db", 30), ("attack_ms", -1), ("key", 3)])
def test_ranges(name, value):
    with pytest.raises(ParameterError, match=f"^{name} must be "):
        setattr(SidechainCompressor(), name, value)
