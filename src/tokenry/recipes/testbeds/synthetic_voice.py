"""A synthetic voice: any text spoken by eSpeak NG, in voices, pitches and speeds, for speech recipes without recordings.

The library comes with `espeakng-loader` (extra `speech`; GPL, so it is installed by who asks for it) and is called through ctypes.

    SyntheticVoice().say("seven", Speaker("en+f3", pitch=60))       # 22,050 samples a second
"""

import ctypes
import shutil
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tokenry.core.errors import UserError

SAMPLE_RATE = 22_050
VOICES = tuple(
    f"en+{name}" for name in ("m1", "m2", "m3", "m4", "m5", "m6", "m7", "f1", "f2", "f3", "f4", "f5")
)
_RETRIEVAL, _CHARS_UTF8, _BY_CHARACTER = 1, 1, 1
_SPEED, _PITCH = 1, 3
_CALLBACK: Any = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
_SYNTH: Any = [
    ctypes.c_char_p,
    ctypes.c_size_t,
    ctypes.c_uint,
    ctypes.c_int,
    ctypes.c_uint,
    ctypes.c_uint,
    ctypes.c_void_p,
    ctypes.c_void_p,
]


@dataclass(frozen=True)
class Speaker:
    """A way of speaking.

    Attributes:
        voice: name of a voice and its variant.
        pitch: from 0 to 99.
        speed: words a minute.
    """

    voice: str = "en"
    pitch: int = 50
    speed: int = 175


class SyntheticVoice:
    """eSpeak NG from its beginning: the same calls in the same order give the same waves, and a word said twice is not said alike.

    Its flutter goes on from one call to the next, so every voice has a copy of the library of its own.

    Args:
        seed: random seed of the breath and roughness of voices.

    Raises:
        UserError: eSpeak NG is not installed.
    """

    def __init__(self, seed: int = 0) -> None:
        loader = _loader()
        with TemporaryDirectory() as folder:
            copy = Path(shutil.copy(loader.get_library_path(), folder))
            self._library: Any = ctypes.CDLL(str(copy))
        rate = self._library.espeak_Initialize(_RETRIEVAL, 0, loader.get_data_path().encode(), 0)
        if rate != SAMPLE_RATE:
            raise UserError(f"eSpeak NG did not begin (it says {rate}): install espeakng-loader anew.")
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(seed))  # the beginning takes the time of day
        self._library.espeak_Synth.argtypes = _SYNTH
        self._heard: list[np.ndarray] = []
        self._callback = _CALLBACK(self._hear)
        self._library.espeak_SetSynthCallback(self._callback)

    def say(self, text: str, speaker: Speaker) -> Float[Tensor, "samples"]:
        """Speak a text.

        Raises:
            UserError: there is no such voice, or nothing to say.
        """
        if self._library.espeak_SetVoiceByName(speaker.voice.encode()):
            raise UserError(f"eSpeak NG has no voice {speaker.voice!r}.")
        self._library.espeak_SetParameter(_SPEED, speaker.speed, 0)
        self._library.espeak_SetParameter(_PITCH, speaker.pitch, 0)
        self._heard.clear()
        words = text.encode() + b"\0"
        self._library.espeak_Synth(words, len(words), 0, _BY_CHARACTER, 0, _CHARS_UTF8, None, None)
        self._library.espeak_Synchronize()
        if not self._heard:
            raise UserError(f"nothing is heard of {text!r}: give words.")
        return torch.from_numpy(np.concatenate(self._heard).astype(np.float32) / 32768)

    def _hear(self, samples: Any, count: int, events: Any) -> int:
        if samples and count:
            self._heard.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0


def _loader() -> Any:
    try:
        return import_module("espeakng_loader")
    except ImportError as error:
        raise UserError("the synthetic voice needs eSpeak NG: pip install 'tokenry[speech]'.") from error
