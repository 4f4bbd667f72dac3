"""Sounds to try a network on: silence, noise, and a tone with the overtones and the rhythm of a voice."""

import wave
from pathlib import Path

import numpy as np
import numpy.typing as npt

RATE = 16_000


def voice(seconds: float) -> npt.NDArray[np.float64]:
    """A buzz of 120 Hz through the formants of an open vowel, in syllables."""
    at = np.arange(int(seconds * RATE)) / RATE
    pitch = 120 * (1 + 0.05 * np.sin(2 * np.pi * 2.5 * at))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    made = np.zeros_like(at)
    for number in range(1, 40):
        frequency = 120 * number
        loudness = sum(np.exp(-(((frequency - formant) / 120) ** 2)) for formant in (700, 1220, 2600)) + 0.02
        made += loudness * np.sin(number * phase)
    syllables = np.clip(np.sin(2 * np.pi * 3 * at), 0, None)
    return np.asarray(0.4 * made / np.abs(made).max() * syllables)


def noise(seconds: float, seed: int = 7) -> npt.NDArray[np.float64]:
    """Quiet white noise."""
    return np.random.default_rng(seed).normal(0, 0.01, int(seconds * RATE))


def write(path: Path, sound: npt.NDArray[np.float64], rate: int = RATE) -> None:
    """A mono WAV file of 16 bit."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.clip(sound, -1, 1) * 32767).astype("<i2").tobytes())
