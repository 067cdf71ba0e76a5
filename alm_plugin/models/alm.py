"""AiLive Mixer: gains from what every channel sounds like, how loud it is, and what the others do.

`ALM` is both networks of the paper: ALM-MR on the clock `MULTI_RATE`, ALM-SR on `SINGLE_RATE`. Streaming calls `embed`
and `step`; training calls the network itself with whole songs. Both are the same function.

    patches -> VGGish -> Linear -> context 1 -+
                                              + -> context 2 -> GRU -> context 3 -> MLP -> gain
               levels -> Linear -> PReLU -----+
    every F1 frame                            | every F2 frame

With ``gain="memory"`` the last layer does not say the gain but how to keep account of the channel's loudness, and the
gain is what brings that loudness to where the channel belongs; see `alm_plugin.models.memory`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from alm_plugin.errors import ParameterError
from alm_plugin.features.clock import MULTI_RATE, ModelClock
from alm_plugin.models.context import ContextBlock
from alm_plugin.models.encoder import VGGish
from alm_plugin.models.memory import OUTPUTS, LoudnessMemory
from alm_plugin.models.recurrent import run
from alm_plugin.models.roles import ROLES

HIDDEN = 128
"""Size of the GRU's state (AiLive Mixer, section 2.1)."""

GAINS = {"exp": 1, "relu": 1, "memory": OUTPUTS}
"""Ways to read the last layer, and how many outputs each has."""

LEVELS = {"rms": 1, "rms-linear": 1, "all": 3}
"""Sets of level features, and how many each has."""


def to_gain_db(output: Tensor, gain: str) -> Tensor:
    """Gain in dB of a network's last layer.

    ``"exp"`` reads it as the logarithm of the gain factor, from -43 to +30 dB. ``"relu"`` is the paper's: the factor
    itself, floored at -100 dB; in training it dies where one bad step makes all outputs negative.
    """
    if gain == "relu":
        return 20.0 * torch.log10(torch.relu(output) + 1e-5)
    return 20.0 * math.log10(math.e) * output.clamp(-5.0, 3.5)


def check_gain(gain: str, known: Iterable[str]) -> str:
    """Return `gain`, or raise `ParameterError` if it is not one of those known."""
    if gain not in known:
        raise ParameterError(f"gain must be one of {', '.join(known)}, got {gain!r}")
    return gain


def init_gain_layer(layer: nn.Linear, gain: str) -> None:
    """Make a last layer begin with small outputs, so that the first steps of training move no gain far."""
    nn.init.normal_(layer.weight, 0.0, 0.01)
    nn.init.constant_(layer.bias, 1.0 if gain == "relu" else 0.0)


def heard(patches: Tensor, mask: Tensor, clock: ModelClock) -> tuple[Tensor, Tensor]:
    """F1 frames that end within a song, and the mask of the frames they end with.

    Parameters
    ----------
    patches : (B, C, K, ...)
        F1 frames, or what was made of them: frame k ends with the song's frame ``k * stride``.
    mask : (B, C, T)

    Returns
    -------
    patches : (B, C, K', ...)
    mask : (B, C, K')

    Raises
    ------
    ParameterError
        If a frame of the song would use an F1 frame that is not there.
    """
    frames = mask.shape[-1]
    used = max(1, -(-(frames - clock.embedding_lag) // clock.stride_frames))
    if patches.shape[2] < used:
        raise ParameterError(f"patches must hold at least {used} F1 frames for {frames} frames, got {patches.shape[2]}")
    ends = mask[..., :: clock.stride_frames][..., : patches.shape[2]]
    return patches[:, :, : ends.shape[-1]], ends


def in_use(embeddings: Tensor, mask: Tensor, clock: ModelClock) -> Tensor:
    """Embedding in use at every frame of a song: (B, C, K, D) and mask (B, C, T) to (B, C, T, D).

    Zeros before a channel's first. Raises `ParameterError` as `heard` does.
    """
    embeddings, ends = heard(embeddings, mask, clock)
    # F1 frame k is in use from frame k * stride + L on, so frame t uses k = floor((t - L) / stride); a channel that was
    # masked there keeps the newest before it at which it was not. Index -1 stands for none.
    index = torch.arange(ends.shape[-1], device=mask.device)
    newest = torch.where(ends > 0, index, -1).cummax(-1).values
    frame = torch.arange(mask.shape[-1], device=mask.device) - clock.embedding_lag
    frame = frame.div(clock.stride_frames, rounding_mode="floor")
    newest = torch.where(frame < 0, -1, newest[..., frame.clamp(min=0)]).unsqueeze(-1)
    picked = embeddings.gather(2, newest.clamp(min=0).expand(-1, -1, -1, embeddings.shape[-1]))
    return torch.where(newest < 0, 0.0, picked)


def embed_active(encoder: Callable[[Tensor], Tensor], patches: Tensor, mask: Tensor) -> Tensor:
    """Encode `patches` (..., 96, 64) where `mask` (...) > 0, zeros elsewhere: (..., embedding).

    Padded channels would cost as much as real ones.
    """
    active = mask > 0
    embedded = encoder(patches[active])
    return embedded.new_zeros((*mask.shape, embedded.shape[-1])).masked_scatter(active.unsqueeze(-1), embedded)


class ALM(nn.Module):
    """AiLive Mixer's network (AiLive Mixer, section 2).

    Parameters
    ----------
    width, hidden
        Of the encoder, see `VGGish`.
    size : int
        D, features per channel up to the GRU.
    gain : {"exp", "relu", "memory"}
        How the last layer is read, see `to_gain_db` and `alm_plugin.models.memory`.
    levels : {"rms", "rms-linear", "all"}
        What conditions the embedding: log RMS, linear RMS as in the paper, or log RMS, log K-weighted RMS and loudness.
    clock : ModelClock
        `MULTI_RATE` is ALM-MR, `SINGLE_RATE` is ALM-SR.
    roles : bool
        Whether it takes notice of what a channel is said to play, where that is said (``state["role"]``).

    Raises
    ------
    ParameterError
        If an argument is out of range or unknown.
    """

    # TorchScript leaves out the branches that a constant rules out, and the attributes only they know.
    __constants__ = ("roles",)

    def __init__(
        self,
        width: float = 0.25,
        hidden: int = 256,
        size: int = 128,
        gain: str = "exp",
        levels: str = "rms",
        clock: ModelClock = MULTI_RATE,
        roles: bool = False,
    ) -> None:
        super().__init__()
        if levels not in LEVELS:
            raise ParameterError(f"levels must be one of {', '.join(LEVELS)}, got {levels!r}")
        if not 1 <= size <= 4096:
            raise ParameterError(f"size must be in [1, 4096], got {size}")
        self.width, self.hidden, self.embedding_size = width, hidden, size
        self.gain, self.levels, self.clock = check_gain(gain, GAINS), levels, clock
        self.roles = roles
        self.encoder = VGGish(width, hidden)
        self.project = nn.Linear(128, size)
        self.context1 = ContextBlock(size)
        self.condition = nn.Sequential(nn.Linear(LEVELS[levels], size), nn.PReLU())
        if roles:
            # Row 0 is for channels of which nothing is said.
            self.role = nn.Embedding(len(ROLES) + 1, size)
            nn.init.normal_(self.role.weight, 0.0, 0.5)
        self.context2 = ContextBlock(size)
        self.gru = nn.GRU(size, HIDDEN, batch_first=True)
        self.context3 = ContextBlock(HIDDEN)
        last = nn.Linear(32, GAINS[gain])
        init_gain_layer(last, gain)
        self.mlp = nn.Sequential(
            nn.Linear(HIDDEN, 128), nn.PReLU(), nn.Linear(128, 64), nn.PReLU(), nn.Linear(64, 32), nn.PReLU(), last
        )
        self.account = LoudnessMemory(clock.f2_ms / 1000.0)

    def config(self) -> dict[str, Any]:
        """Arguments that make this network again, for `alm_plugin.models.files.build`, as JSON types."""
        return {
            "kind": "alm",
            "width": self.width,
            "hidden": self.hidden,
            "size": self.embedding_size,
            "gain": self.gain,
            "levels": self.levels,
            "clock": asdict(self.clock),
            "roles": self.roles,
        }

    @torch.jit.export
    def initial_state(self, channels: int) -> dict[str, Tensor]:
        """State before the first frame.

        ``hidden`` (C, 128); with a memory ``memory`` (C, 3) and ``gain_db`` (C,); with roles ``role`` (C,), -1 where
        nothing is said.
        """
        state = {"hidden": self.project.weight.new_zeros((channels, self.gru.hidden_size))}
        if self.gain == "memory":
            state.update(self.account.fresh(state["hidden"]))
        if self.roles:
            state["role"] = torch.full((channels,), -1, dtype=torch.int64)
        return state

    @torch.jit.export
    def embed(self, patches: Tensor, mask: Tensor) -> Tensor:
        """Embed one F1 frame of every channel: `patches` (C, 96, 64), `mask` (C,) to (C, D)."""
        return self.context1(self.project(self.encoder(patches)), mask)

    @torch.jit.export
    def step(
        self, embedding: Tensor, levels: Tensor, mask: Tensor, state: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Predict the next frame's gains; shapes as in `alm_plugin.models.contract.Model.step`.

        Where `mask` is 0 the state stays as it is; the gain is 0 dB there, with a memory the last.
        """
        before = state["hidden"]
        if self.roles:
            embedding = embedding + self.role(state["role"] + 1)
        x = self.conditioned(embedding, levels, mask)
        hidden = self.gru(x.unsqueeze(1), before.unsqueeze(0))[1].squeeze(0)
        following = state.copy()
        following["hidden"] = torch.where((mask > 0).unsqueeze(-1), hidden, before)
        output = self.mlp(self.context3(following["hidden"], mask))
        if self.gain == "memory":
            gain_db, memory = self.account(output, levels[..., 1], mask, state["memory"], state["gain_db"])
            following["memory"], following["gain_db"] = memory, gain_db
            return gain_db, following
        return self.direct(output, mask), following

    def direct(self, output: Tensor, mask: Tensor) -> Tensor:
        """Gains in dB (..., C) that the last layer (..., C, 1) says itself."""
        return torch.where(mask > 0, to_gain_db(output.squeeze(-1), self.gain), 0.0)

    def conditioned(self, embedding: Tensor, levels: Tensor, mask: Tensor) -> Tensor:
        """From (..., C, D), (..., C, 3), (..., C) to the GRU's input (..., C, D)."""
        # An RMS of 1e-4 to 1 (-80 to 0 dBFS) becomes -1 to 1: as a plain number it would hardly move in quiet channels.
        rms, power, loudness = levels.unbind(-1)
        features = [rms if self.levels == "rms-linear" else torch.log10(rms + 1e-4) / 2.0 + 1.0]
        if self.levels == "all":
            features += [torch.log10(power.sqrt() + 1e-4) / 2.0 + 1.0, loudness / 35.0 + 1.0]
        return self.context2(embedding + self.condition(torch.stack(features, -1)), mask)

    @torch.jit.unused
    def embed_song(self, patches: Tensor, mask: Tensor) -> Tensor:
        """Embed the F1 frames of whole songs.

        Parameters
        ----------
        patches : (B, C, K, 96, 64)
            F1 frame k ends with frame ``k * stride``.
        mask : (B, C, T)

        Returns
        -------
        (B, C, K', D)
            Of the K' frames that end within the song.

        Raises
        ------
        ParameterError
            If there are too few F1 frames for the song.
        """
        patches, ends = heard(patches, mask, self.clock)
        x = self.project(embed_active(self.encoder, patches, ends))
        return self.context1(x.transpose(1, 2), ends.transpose(1, 2)).transpose(1, 2)

    @torch.jit.unused
    def head(self, embeddings: Tensor, levels: Tensor, mask: Tensor) -> Tensor:
        """Predict the gains of whole songs from `embed_song`'s result.

        Parameters
        ----------
        embeddings : (B, C, K, D)
        levels : (B, C, T, 3)
        mask : (B, C, T)

        Returns
        -------
        (B, C, T)
            Gains in dB: entry t is what `step` returns for frame t, meant for frame t + 1.
        """
        return self.continued(in_use(embeddings, mask, self.clock), levels, mask)[0]

    @torch.jit.unused
    def continued(
        self, embeddings: Tensor, levels: Tensor, mask: Tensor, state: dict[str, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Predict the gains of stretches of songs that go on from a state.

        Parameters
        ----------
        embeddings : (B, C, T, D)
            In use at every frame, see `in_use`.
        levels : (B, C, T, 3)
        mask : (B, C, T)
        state : dict of (B, C, ...), optional
            Where the stretches before ended; by default that of a stream's start.

        Returns
        -------
        gain_db : (B, C, T)
        output : (B, C, T, outputs)
            Of the last layer.
        state : dict of (B, C, ...)
        """
        batch, channels, _ = mask.shape
        if state is None:
            fresh = self.initial_state(batch * channels)
            state = {name: rows.unflatten(0, (batch, channels)) for name, rows in fresh.items()}
        if self.roles:
            embeddings = embeddings + self.role(state["role"] + 1).unsqueeze(2)
        across = mask.transpose(1, 2)
        x = self.conditioned(embeddings.transpose(1, 2), levels.transpose(1, 2), across).transpose(1, 2)
        # A channel's state skips the frames in which it is masked. So its other frames move to the front in their
        # order, the GRU runs over all of them, and its outputs go back to where their inputs came from. Channels that
        # are masked throughout, as those that only fill up a batch, keep the state they had.
        active = mask > 0
        heard = active.any(-1)
        order = torch.argsort(~active[heard], dim=-1, stable=True).unsqueeze(-1)
        x = x[heard]
        states = run(self.gru, x.gather(1, order.expand_as(x)), state["hidden"][heard])
        # What a channel ends on is its output of the last active frame.
        count = active[heard].sum(-1).view(-1, 1, 1).expand(-1, 1, states.shape[-1])
        last = state["hidden"].masked_scatter(heard.unsqueeze(-1), states.gather(1, count - 1))
        states = torch.empty_like(states).scatter(1, order.expand_as(states), states)
        hidden = states.new_zeros((*mask.shape, states.shape[-1])).masked_scatter(heard[..., None, None], states)
        output = self.mlp(self.context3(hidden.transpose(1, 2), across)).to(mask.dtype).transpose(1, 2)
        following = state | {"hidden": last}
        if self.gain != "memory":
            return self.direct(output, mask), output, following
        gain_db, memory = self.account.stretch(output, levels[..., 1], mask, state["memory"], state["gain_db"])
        return gain_db, output, following | {"memory": memory, "gain_db": gain_db[..., -1]}

    @torch.jit.unused
    def forward(self, patches: Tensor, levels: Tensor, mask: Tensor) -> Tensor:
        """Predict the gains of whole songs: ``head(embed_song(patches, mask), levels, mask)``."""
        return self.head(self.embed_song(patches, mask), levels, mask)
