"""A trained network's files: weights small enough to ship, and the card that says what they are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from alm_plugin.data import staged
from alm_plugin.models.alm import ALM
from alm_plugin.models.files import save_weights

from .corpus import KINDS, SOUNDS, fingerprint
from .recipe import Recipe
from .speakers import VOICES

LICENCE = "GPL-3.0-or-later"

LIMITS = (
    "It has never heard a recording: songs, voices, rooms and microphones are all made up. How it does on real ones is "
    "not part of these scores.",
    "It knows means: the vocal about as loud as the band, drums, bass and harmony in their usual shares. It does not "
    "know what a song is about, and makes no solo louder.",
    "Roles that are said (channel names, `Strip(role=...)`) are taken notice of; without them it goes by sound, and a "
    "sustained distorted guitar may pass for a singer.",
    "A channel that has only carried its neighbours' bleed can be too loud for some tenths of a second when its player "
    "comes in.",
    "Gains only: no panning, equaliser or dynamics.",
)


def training_data(recipe: Recipe, songs: Sequence[Path]) -> str:
    """Say in a line what a model was trained on."""
    added = len(songs) - recipe.songs
    return (
        f"{recipe.songs} songs composed by alm-train (recipe {recipe.name}), rendered with soundfonts, physical models "
        "and re-pitched speech from Debian packages, on simulated stages"
        + (f"; {added} songs of the user's own" if added > 0 else "")
    )


def write_model(
    network: ALM,
    path: Path,
    recipe: Recipe,
    seed: int,
    songs: Sequence[Path],
    recognition: Mapping[str, Any],
    encoder: str = "",
) -> str:
    """Write a network's weights in half precision, and beside them what made them; returns the sha256.

    `encoder` names the run that its encoder is from, if it is another one.
    """
    sha256 = save_weights(
        network,
        path,
        name=path.stem,
        training_data=training_data(recipe, songs),
        licence=LICENCE,
        scores={},
        half=True,
    )
    made = {
        "name": path.stem,
        "recipe": asdict(recipe),
        "seed": seed,
        "encoder": encoder,
        "songs": len(songs),
        "songs_sha256": fingerprint(songs),
        "sha256": sha256,
        "recognition": recognition,
        "notes": [],
    }
    with staged(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    return sha256


def card(made: Mapping[str, Any], table: str) -> str:
    """Model card in Markdown.

    Parameters
    ----------
    made : dict
        What `write_model` left beside the weights.
    table : str
        Scores, from `training.report.markdown`.
    """
    recipe = made["recipe"]
    encoder = f" --encoder alm-training/{made['encoder']}" if made.get("encoder") else ""
    fonts = sorted({font for kind in KINDS.values() for font in (*kind.soundfonts, *kind.kits)})
    voices = sorted({f"{voice.package} ({voice.licence})" for voice in VOICES})
    stages = "\n".join(
        f"| {name} | {', '.join(f'{key} {value}' for key, value in recipe[name].items())} |"
        for name in ("encode", "gains", "mix")
    )
    taken = ", ".join(f"{role} {share:.2f}" for role, share in made["recognition"]["taken_for_a_voice"].items())
    limits = "\n".join(f"- {limit}" for limit in (*LIMITS, *made["notes"]))
    return f"""# Model card: {made["name"]}

AiLive Mixer's network on the clock of 975 ms / 300 ms / 50 ms, with a loudness memory as its last stage: it predicts,
every 50 ms and before they sound, one gain per channel of a band.

- sha256 of the weights: `{made["sha256"]}`
- licence: {LICENCE}
- rebuilt by: `alm-train --recipe {recipe["name"]} --seed {made["seed"]}{encoder}`

## Data

{made["songs"]} songs of {recipe["seconds"]:g} s (digest `{made["songs_sha256"][:16]}`), composed and rendered
by the project. No recording of anybody's music was used. Target: style means of group budgets (vocal to band +0.5 LU
in most styles, drums -5, bass -8, harmony -6.2, backing vocals -11 LU re the vocals), mix at -24 LUFS.

Sounds: {"; ".join(f"{Path(font).name}: {SOUNDS[font]}" for font in fonts)}; strings, winds, synthesisers and
amplifiers modelled by the project. Voices, re-pitched with WORLD: {"; ".join(voices)}.

## Recipe

Encoder: VGGish at width {recipe["width"]:g}. Every example is a function of (seed, epoch, index).

Of patches of the test set in which a player is to be heard, the encoder takes for a voice: {taken}.

| stage | |
|---|---|
{stages}

## Scores

On the frozen test set, which shares no soundfont, voice or seed with the training songs:

{table}

## Limits

{limits}
"""
