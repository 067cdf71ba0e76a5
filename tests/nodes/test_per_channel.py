import numpy as np
import pytest
from pedalboard import Compressor, HighpassFilter
from pedalboard_native._internal import AddLatency

from alm_plugin import Chain, PerChannel, Strip

RATE = 48_000


@pytest.mark.parametrize("channels", [1, 2, 8])
@pytest.mark.parametrize("block", [1, 17, 441, 4_800])
def test_every_channel_has_a_plugin_of_its_own(rng, channels, block):
    x = (rng.standard_normal((channels, 4_800)) * np.linspace(0.05, 0.5, channels)[:, None]).astype(np.float32)
    node = PerChannel(lambda: [HighpassFilter(100), Compressor(-20, 4)])
    parts = [node(x[:, i : i + block], RATE, reset=i == 0) for i in range(0, 4_800, block)] if block > 8 else None
    want = [Chain([HighpassFilter(100), Compressor(-20, 4)])(row, RATE) for row in x]
    out = np.concatenate(parts, axis=1) if parts else node(x, RATE, block)
    np.testing.assert_array_equal(out, want)
    assert len(node.chains) == channels
    assert len({id(chain[0]) for chain in node.chains}) == channels


def test_a_stereo_plugin_is_not_linked_any_more(rng):
    x = np.stack([np.full(4_800, 0.9), np.full(4_800, 0.01)]).astype(np.float32)
    out = PerChannel(lambda: Compressor(-20, 10))(x, RATE)
    np.testing.assert_allclose(out[1], x[1])


def test_a_plugin_that_takes_mono_only_works_on_stereo(rng, zam):
    from alm_plugin import External

    x = (0.3 * rng.standard_normal((2, 4_800))).astype(np.float32)

    def make():
        plugin = External(zam / "ZamComp.vst3")
        plugin.threshold_db = -30.0
        return plugin

    np.testing.assert_array_equal(PerChannel(make)(x, RATE), [make()(row, RATE) for row in x])


def test_latency_is_reported():
    node = PerChannel(lambda: AddLatency(33))
    assert node.reported_latency_samples == 33
    pulse = np.zeros((2, 100), np.float32)
    pulse[:, 0] = 1.0
    assert Strip([node]).process(pulse, RATE).argmax(axis=1).tolist() == [33, 33]


def test_a_factory_can_be_called():
    with pytest.raises(TypeError, match="factory must be callable, got 3"):
        PerChannel(3)
