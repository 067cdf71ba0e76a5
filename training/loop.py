"""The training run: three stages, each a loop that can stop and go on anywhere.

A run lives in a folder: checkpoints, what a frozen encoder made of the examples, logs. Batches are numbered; batch k of
a stage is the same whoever makes it and whenever, so that to resume is to start counting at the checkpoint's number.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from alm_plugin.data import reason_of, staged
from alm_plugin.errors import AudioFileError
from alm_plugin.features.clock import ModelClock
from alm_plugin.features.front_end import PATCH_COLUMNS
from alm_plugin.models.alm import ALM, embed_active, in_use
from alm_plugin.models.alm import heard as heard_frames
from alm_plugin.models.encoder import VGGish
from alm_plugin.models.roles import ROLES

from .examples import Example, Examples
from .heard import Heard, hear, louder, patches, stack
from .losses import GainLoss, gain_loss, multi_resolution_stft
from .mixdown import mixdown
from .recipe import Gains, Recipe
from .song import SAMPLE_RATE

CHECKPOINT_SHARE = 0.05
"""Of the time, that writing checkpoints may take: after every step, where a step takes longer than twenty of them."""

CLIP_NORM = 1.0
WARM_UP_STEPS = 50
MOST_REWINDS = 20
ROLES_SAID = (1.0, 1.0, 0.5, 0.0, 0.0, 0.0)
"""Share of a song's channels whose role is said, drawn per song."""

ROLES_WRONG = 0.02
REPLAY_AFTER = 16
EXAMPLES_SEED = 1000
"""Of the second stage's examples, the same for every run: its seed decides about all else."""

PATCHES_AT_ONCE = 32
OWN_ENOUGH = 0.15
"""Share of a channel's power from which on its role can be asked for."""

Log = Callable[[str, int, int, Mapping[str, float]], None]
"""Called with the stage, the step, the number of steps, and what was measured."""


class TrainingError(RuntimeError):
    """A run that cannot go on."""


# ---- the run's folder ------------------------------------------------------------------------------------------------


class Checkpoint:
    """Where a stage is: network, optimiser, step and the state that songs carry on, on disk and in memory.

    Written as a whole or not at all, so that a kill in the middle or a full disk costs the step that was under way.
    """

    def __init__(self, path: Path, network: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        self.path, self.network, self.optimiser = path, network, optimiser
        self.step = 0
        self.rewinds = 0
        self.carried: dict[str, Tensor] | None = None
        self._written, self._writing_s = time.monotonic(), 0.0
        if path.exists():
            kept = torch.load(path, map_location="cpu", weights_only=True)
            network.load_state_dict(kept["network"])
            optimiser.load_state_dict(kept["optimiser"])
            self.step, self.rewinds = kept["step"], kept["rewinds"]
            self.carried = kept.get("carried")
        self._good = self._state()

    def _state(self) -> dict[str, Any]:
        return {
            "network": _copied(dict(self.network.state_dict())),
            "optimiser": _copied(self.optimiser.state_dict()),
            "step": self.step,
            "rewinds": self.rewinds,
            "carried": _copied(self.carried),
        }

    def advance(self, step: int, *, now: bool = False) -> None:
        """Note that `step` steps are done, and write it down unless the last time was just now."""
        self.step = step
        begin = time.monotonic()
        if now or CHECKPOINT_SHARE * (begin - self._written) >= self._writing_s:
            self._good = self._state()
            self.write(self._good)
            self._written = time.monotonic()
            self._writing_s = self._written - begin

    def write(self, state: Mapping[str, Any]) -> None:
        """Write a state; a disk that is full leaves the one before."""
        try:
            with staged(self.path) as temporary:
                torch.save(state, temporary)
        except (OSError, RuntimeError, AudioFileError) as error:
            raise TrainingError(f"{self.path}: cannot write the checkpoint, the one before is kept: {error}") from error

    def rewind(self) -> None:
        """Go back to the last good state, after a loss that is not a number.

        Raises
        ------
        TrainingError
            When that happens all the time.
        """
        self.rewinds += 1
        if self.rewinds > MOST_REWINDS:
            raise TrainingError(f"{self.path.stem}: loss must be finite, got {self.rewinds} that were not")
        self.network.load_state_dict(self._good["network"])
        # An optimiser keeps the tensors that it is given, and steps change them in place.
        self.optimiser.load_state_dict(_copied(self._good["optimiser"]))


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _copied(part) for key, part in value.items()}
    return [_copied(part) for part in value] if isinstance(value, list) else value


def schedule(step: int, steps: int, peak: float) -> float:
    """Learning rate: up over 50 steps, down to nothing along a half cosine."""
    return peak * min(1.0, (step + 1) / WARM_UP_STEPS) * (0.5 + 0.5 * math.cos(math.pi * min(1.0, step / steps)))


def descend(
    checkpoint: Checkpoint, loss: Tensor, step: int, steps: int, peak: float, parameters: Sequence[nn.Parameter]
) -> bool:
    """Take one step down; False if there was none to take, because the loss was not a number."""
    if not torch.isfinite(loss):
        checkpoint.rewind()
        return False
    for group in checkpoint.optimiser.param_groups:
        group["lr"] = schedule(step, steps, peak)
    checkpoint.optimiser.zero_grad(set_to_none=True)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
    if not torch.isfinite(norm):
        checkpoint.rewind()
        return False
    checkpoint.optimiser.step()
    return True


def _half_precision() -> contextlib.AbstractContextManager[Any]:
    # 2.4x faster where the processor multiplies bfloat16 itself, and no loss of accuracy to be seen.
    fast = torch.backends.mkldnn.is_available() and _has_bfloat16()
    return torch.autocast("cpu", dtype=torch.bfloat16) if fast else contextlib.nullcontext()


def _has_bfloat16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


class _Numbered(Dataset):
    """Items of a function by number; its workers use one thread each."""

    def __init__(self, item: Callable[[int], Any], first: int, stop: int) -> None:
        self.item, self.first, self.stop = item, first, stop

    def __len__(self) -> int:
        return self.stop - self.first

    def __getitem__(self, index: int) -> Any:
        return self.item(self.first + index)


def _at_work(_: int) -> None:
    torch.set_num_threads(1)
    # A fork server's workers are not children of who they work for, and torch does not see that they are left alone.
    threading.Thread(target=_leave_together, daemon=True).start()


def _leave_together() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def batches(item: Callable[[int], Any], first: int, steps: int, size: int, workers: int, collate: Any) -> Iterator[Any]:
    """Batches `first` to ``steps - 1`` of `size` items each, made by worker processes ahead of time."""
    loader = DataLoader(
        _Numbered(item, first * size, steps * size),
        size,
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=_at_work,
        prefetch_factor=2 if workers else None,
        # Tensors in shared memory would be limited by the size of /dev/shm.
        multiprocessing_context="forkserver" if workers else None,
    )
    yield from loader


# ---- first stage: what plays -----------------------------------------------------------------------------------------


class Clip(NamedTuple):
    """Patches (P, 96, 64) of all channels, their roles (P,), and the share that is the channel's own (P,)."""

    patches: Tensor
    roles: Tensor
    own_share: Tensor


class Clips:
    """Short examples as patches that do not overlap."""

    def __init__(self, examples: Examples) -> None:
        self.examples = examples

    def __call__(self, number: int) -> Clip:
        """Make clip `number`."""
        heard = hear(self.examples[number])
        count = heard.sound.shape[1] // PATCH_COLUMNS
        cut = heard.sound[:, : count * PATCH_COLUMNS].unflatten(1, (count, PATCH_COLUMNS))
        # Frames per patch: 19.2; the share is that of the power, as far as the frames tell.
        power = heard.levels[..., 0].square()
        spans = [slice(int(k * 19.2), int(k * 19.2) + 19) for k in range(count)]
        own = torch.stack([(heard.own_share * power)[:, s].sum(-1) / (power[:, s].sum(-1) + 1e-12) for s in spans], 1)
        active = torch.stack([heard.mask[:, s].amin(-1) for s in spans], 1) > 0
        roles = heard.roles.unsqueeze(1).expand(-1, count)
        return Clip(cut[active], roles[active], own[active])


def _join(clips: Sequence[Clip]) -> Clip:
    return Clip(*(torch.cat(parts) for parts in zip(*clips, strict=True)))


class Pretext(nn.Module):
    """An encoder and what is asked of it: role logits (P, roles), and the logit of the own share (P,)."""

    def __init__(self, encoder: VGGish) -> None:
        super().__init__()
        self.encoder = encoder
        self.answer = nn.Linear(128, len(ROLES) + 1)

    def forward(self, sound: Tensor) -> tuple[Tensor, Tensor]:
        """Answer for `sound` (P, 96, 64)."""
        answer = self.answer(self.encoder(sound)).float()
        return answer[:, :-1], answer[:, -1]


def encode(recipe: Recipe, songs: Sequence[Path], seed: int, folder: Path, workers: int, log: Log) -> Pretext:
    """Train the encoder, or take up where it was left."""
    stage = recipe.encode
    torch.manual_seed(seed)
    network = Pretext(VGGish(recipe.width, recipe.hidden))
    parameters = list(network.parameters())
    checkpoint = Checkpoint(folder / "encode.pt", network, torch.optim.AdamW(parameters, stage.rate, weight_decay=0.02))
    clips = Clips(Examples(songs, replace(recipe.conditions, seconds=stage.seconds), seed))
    for step, clip in enumerate(
        batches(clips, checkpoint.step, stage.steps, stage.batch, workers, _join), checkpoint.step
    ):
        if len(clip.roles):
            with _half_precision():
                roles, own = network(clip.patches)
            asked = clip.own_share > OWN_ENOUGH
            role_loss = torch.zeros(())
            if asked.any():
                role_loss = nn.functional.cross_entropy(roles[asked], clip.roles[asked], label_smoothing=0.05)
            own_loss = nn.functional.binary_cross_entropy_with_logits(own, clip.own_share)
            if descend(checkpoint, role_loss + own_loss, step, stage.steps, stage.rate, parameters):
                right = (roles[asked].argmax(-1) == clip.roles[asked]).sum() / asked.sum().clamp(min=1)
                log(
                    "encode",
                    step + 1,
                    stage.steps,
                    {"role": role_loss.item(), "own": own_loss.item(), "right": right.item()},
                )
        checkpoint.advance(step + 1, now=step + 1 == stage.steps)
    return network.eval()


def trained(recipe: Recipe, folder: Path) -> Pretext:
    """Return the encoder of a run that is through with its first stage, or raise `TrainingError`."""
    path = folder / "encode.pt"
    network = Pretext(VGGish(recipe.width, recipe.hidden))
    try:
        kept = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict(kept["network"])
    except Exception as error:  # torch has many ways to say that a file is none of its own
        reason = reason_of(error).partition("\n")[0]
        raise TrainingError(f"{path}: expected the encoder of a run of this recipe, got {reason}") from error
    if kept["step"] < recipe.encode.steps:
        raise TrainingError(f"{path}: expected a trained encoder, got step {kept['step']} of {recipe.encode.steps}")
    return network.eval()


# ---- second stage: the gains -----------------------------------------------------------------------------------------


class Ears:
    """An example as a frozen encoder hears it: `Heard` with embeddings (C, K, D) for its sound."""

    def __init__(self, encoder: VGGish, clock: ModelClock) -> None:
        self.encoder, self.clock = encoder, clock

    @torch.no_grad()
    def __call__(self, example: Example) -> Heard:
        """Hear an example."""
        heard = hear(example)
        sound, ends = heard_frames(patches(heard.sound, self.clock)[None], heard.mask[None], self.clock)
        with _half_precision():
            sound = embed_active(self._embed, sound, ends)[0]
        # As coarse as it is kept, or a run that is taken up again would go another way.
        return heard._replace(sound=sound.half().float())

    def _embed(self, sound: Tensor) -> Tensor:
        # A song's patches at once do not fit the processor's cache: in parts they take two thirds of the time.
        return torch.cat([self.encoder(part) for part in sound.split(PATCHES_AT_ONCE)])


class Kept:
    """Examples by number, kept on disk once they have been heard."""

    def __init__(self, examples: Examples, ears: Ears, folder: Path) -> None:
        self.examples, self.ears, self.folder = examples, ears, folder
        folder.mkdir(exist_ok=True)

    def __call__(self, number: int) -> Heard:
        """Hear example `number`, or remember it."""
        path = self.folder / f"{number}.npz"
        with (
            contextlib.suppress(OSError, ValueError, KeyError, zipfile.BadZipFile),
            np.load(path, allow_pickle=False) as kept,
        ):
            heard = Heard(*(torch.from_numpy(kept[name]) for name in Heard._fields))
            return heard._replace(sound=heard.sound.float())
        heard = self.ears(self.examples[number])
        arrays = {name: part.numpy() for name, part in zip(Heard._fields, heard, strict=True)}
        with staged(path) as temporary, temporary.open("wb") as file:
            arrays["sound"] = arrays["sound"].astype(np.float16)
            np.savez(file, allow_pickle=False, **arrays)
        return heard


def learn_gains(
    recipe: Recipe,
    pretext: Pretext,
    songs: Sequence[Path],
    seed: int,
    folder: Path,
    workers: int,
    log: Log,
    heard_in: Path | None = None,
) -> ALM:
    """Train the network on the true gains, or take up where it was left.

    What the encoder made of the examples is kept in `heard_in`, by default in `folder`.
    """
    stage = recipe.gains
    torch.manual_seed(seed)
    network = ALM(recipe.width, recipe.hidden, gain="memory", levels="all", roles=True)
    network.encoder.load_state_dict(pretext.encoder.state_dict())
    parameters = [p for name, p in network.named_parameters() if not name.startswith("encoder.")]
    checkpoint = Checkpoint(folder / "gains.pt", network, torch.optim.AdamW(parameters, stage.rate, weight_decay=0.02))
    examples = Examples(songs, recipe.conditions, EXAMPLES_SEED)
    kept_examples = Kept(examples, Ears(network.encoder, network.clock), heard_in or folder / "heard")
    row = Replayed(stage.new, stage.batch, seed)
    for step, heard in enumerate(
        batches(Chosen(kept_examples, row), checkpoint.step, stage.steps, stage.batch, workers, stack), checkpoint.step
    ):
        rng = torch.Generator().manual_seed(seed * 1_000_003 + step)
        shift = stage.staging_db * (2 * torch.rand(heard.roles.shape, generator=rng) - 1)
        heard = louder(heard, shift)
        state = beginning(network, heard, rng, checkpoint.carried, stage.carried)
        checkpoint.carried = train_song(network, heard, state, stage, checkpoint, parameters, step, log)
        checkpoint.advance(step + 1, now=step + 1 == stage.steps)
    return network.eval()


class Replayed:
    """Which example is at a place of a stage's row: some of each batch are new, the others come again.

    New examples cost worker processes as much time as the network needs for a batch; so neither waits for the other.
    """

    def __init__(self, new: int, batch: int, seed: int) -> None:
        self.new, self.batch, self.seed = new, batch, seed

    def __call__(self, place: int) -> int:
        """Return the number of the example at `place`."""
        step, index = divmod(place, self.batch)
        # Some batches back, so that whoever made it has written it down.
        old = (step - REPLAY_AFTER) * self.new
        if index < self.new or old <= 0:
            return step * self.new + index % self.new
        return int(np.random.default_rng([self.seed, place]).integers(old))


class Chosen:
    """Items in another order."""

    def __init__(self, item: Callable[[int], Any], number: Callable[[int], int]) -> None:
        self.item, self.number = item, number

    def __call__(self, place: int) -> Any:
        """Item at a place."""
        return self.item(self.number(place))


def in_context(network: ALM, heard: Heard) -> Tensor:
    """Embeddings (B, C, K, D) as `ALM.embed_song` gives them, from what a frozen encoder said."""
    sound, ends = heard_frames(heard.sound, heard.mask, network.clock)
    return network.context1(network.project(sound).transpose(1, 2), ends.transpose(1, 2)).transpose(1, 2)


def train_song(
    network: ALM,
    heard: Heard,
    state: dict[str, Tensor] | None,
    stage: Gains,
    checkpoint: Checkpoint,
    parameters: Sequence[nn.Parameter],
    step: int,
    log: Log,
) -> dict[str, Tensor] | None:
    """Go through a batch of songs snippet by snippet, a step each; returns the state it ends in."""
    frames = heard.mask.shape[-1]
    for start in range(0, frames - 1, stage.frames):
        window = slice(start, min(start + stage.frames, frames))
        with _half_precision():
            used = in_use(in_context(network, heard), heard.mask, network.clock)[:, :, window]
            gain_db, output, following = network.continued(
                used, heard.levels[:, :, window], heard.mask[..., window], state
            )
        loss = gain_loss(gain_db, heard, start, written(network, output))
        if not descend(checkpoint, weighted(loss, stage), step, stage.steps, stage.rate, parameters):
            return None
        log(
            "gains",
            step + 1,
            stage.steps,
            {
                "error_db": loss.error.item(),
                "vocals_db": loss.vocals.item(),
                "roughness_db": loss.roughness.item(),
                "memory": loss.memory.item(),
            },
        )
        state = {name: rows.detach() for name, rows in following.items()}
    return state


def written(network: ALM, output: Tensor) -> Tensor:
    """Logits (B, C, T) of what the network's memory writes down."""
    return output[..., 1] + network.account.write_bias


def weighted(loss: GainLoss, stage: Gains) -> Tensor:
    """Everything that is wrong with gains as one number, per 10 dB."""
    parts = (loss.error, stage.vocals * loss.vocals, stage.smoothness * loss.roughness, stage.memory * loss.memory)
    return sum(parts) / 10.0  # pyright: ignore[reportReturnType]


def beginning(
    network: ALM, heard: Heard, rng: torch.Generator, kept: dict[str, Tensor] | None = None, share: float = 0.0
) -> dict[str, Tensor]:
    """State in which a batch of songs begins.

    Of some songs all roles are said, of some none, of some a few, and a few of those wrongly. A share of the songs go
    on from the states `kept` in which others ended.
    """
    batch, channels = heard.roles.shape
    fresh = network.initial_state(batch * channels)
    state = {name: rows.unflatten(0, (batch, channels)).clone() for name, rows in fresh.items()}
    if kept is not None:
        rows, wide = min(batch, len(kept["hidden"])), min(channels, kept["hidden"].shape[1])
        goes_on = torch.nonzero(torch.rand(rows, generator=rng) < share).flatten()
        # Not the memory: a channel that was another a moment ago would teach the network not to trust it.
        state["hidden"][goes_on, :wide] = kept["hidden"][goes_on, :wide]
    if "role" in state:
        said = torch.tensor(ROLES_SAID)[torch.randint(len(ROLES_SAID), (batch, 1), generator=rng)]
        role = torch.where(torch.rand(heard.roles.shape, generator=rng) < said, heard.roles, -1)
        other = torch.randint(len(ROLES), role.shape, generator=rng)
        wrong = (torch.rand(role.shape, generator=rng) < ROLES_WRONG) & (role >= 0)
        state["role"] = torch.where(wrong, other, role)
    return state


# ---- third stage: the mix --------------------------------------------------------------------------------------------


class Audible(NamedTuple):
    """An example with its sound: inputs (C, samples) and the true mix (samples,)."""

    heard: Heard
    inputs: Tensor
    target: Tensor


class Sounding:
    """Examples with their sound."""

    def __init__(self, examples: Examples, ears: Ears) -> None:
        self.examples, self.ears = examples, ears

    def __call__(self, number: int) -> Audible:
        """Make example `number`."""
        example = self.examples[number]
        return Audible(self.ears(example), torch.from_numpy(example.inputs), torch.from_numpy(example.target))


def _stack_audible(items: Sequence[Audible]) -> Audible:
    channels = max(len(item.inputs) for item in items)
    samples = min(item.inputs.shape[1] for item in items)
    inputs = torch.zeros(len(items), channels, samples)
    for b, item in enumerate(items):
        inputs[b, : len(item.inputs)] = item.inputs[:, :samples]
    return Audible(
        stack([item.heard for item in items]), inputs, torch.stack([item.target[:samples] for item in items])
    )


def learn_mix(
    recipe: Recipe, network: ALM, songs: Sequence[Path], seed: int, folder: Path, workers: int, log: Log
) -> ALM:
    """Train the network on its mixes, or take up where it was left."""
    stage = recipe.mix
    torch.manual_seed(seed)
    network.train()
    parameters = [p for name, p in network.named_parameters() if not name.startswith("encoder.")]
    checkpoint = Checkpoint(folder / "mix.pt", network, torch.optim.AdamW(parameters, stage.rate, weight_decay=0.02))
    examples = Examples(songs, replace(recipe.conditions, seconds=stage.seconds), seed + 2000)
    sounding = Sounding(examples, Ears(network.encoder, network.clock))
    distance = multi_resolution_stft()
    for step, (heard, inputs, target) in enumerate(
        batches(sounding, checkpoint.step, stage.steps, stage.batch, workers, _stack_audible), checkpoint.step
    ):
        state = beginning(network, heard, torch.Generator().manual_seed(seed * 1_000_003 + step))
        with _half_precision():
            used = in_use(in_context(network, heard), heard.mask, network.clock)
            gain_db, output, _ = network.continued(used, heard.levels, heard.mask, state)
        # What is predicted from frame n is for frame n + 1.
        first_db = state["gain_db"]
        applied = torch.cat([first_db.unsqueeze(-1), gain_db[..., :-1]], -1)
        mix = mixdown(inputs, applied, network.clock, SAMPLE_RATE, first_db)
        stft = distance(mix.unsqueeze(1), target.unsqueeze(1))
        loss = gain_loss(gain_db, heard, write=written(network, output))
        total = stft + stage.anchor * weighted(loss, recipe.gains)
        if descend(checkpoint, total, step, stage.steps, stage.rate, parameters):
            log(
                "mix",
                step + 1,
                stage.steps,
                {"stft": stft.item(), "error_db": loss.error.item(), "vocals_db": loss.vocals.item()},
            )
        checkpoint.advance(step + 1, now=step + 1 == stage.steps)
    return network.eval()


def train(
    recipe: Recipe,
    songs: Sequence[Path],
    seed: int,
    folder: Path,
    workers: int,
    log: Log,
    encoder: Path | None = None,
) -> tuple[Pretext, ALM]:
    """Run all stages, or what is left of them; the run's folder is `folder`.

    With `encoder`, the folder of another run, that one's encoder takes the place of the first stage, and what it has
    heard already need not be heard again.

    Raises
    ------
    TrainingError
        If that run's first stage is not complete, or losses are not finite all the time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pretext = encode(recipe, songs, seed, folder, workers, log) if encoder is None else trained(recipe, encoder)
    heard_in = (encoder or folder) / "heard"
    network = learn_gains(recipe, pretext, songs, seed, folder, workers, log, heard_in)
    return pretext, learn_mix(recipe, network, songs, seed, folder, workers, log)
