"""Frames of a pretrained audio encoder of transformers: HuBERT, WavLM, AST, CLAP, Whisper and such.

Whatever the network, its frames are brought to (B, F, C) in the order of time, those past the end
of a sound are left out, and the rest is averaged onto the token frames.

Legend: B batch, S samples of a clip, F frames of the encoder, T token frames, C its width.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nano4m.compute.on_device import seeded
from nano4m.config.tokenizers.semantic import Semantic
from nano4m.errors import UserError
from nano4m.storage.arrays import not_finite
from nano4m.tokenizers.pretrained_weights import Found, Source, fetch, require_package
from nano4m.tokenizers.resampling import resampled
from nano4m.tokenizers.transformers_models import load_model

FILES = ("config.json", "preprocessor_config.json", "model.safetensors")
WITHOUT = "leave the option out, and cepstra of the clips are clustered"
LEAST_SECONDS = 0.1
"""Shorter sounds get zeros at the end: a convolutional front end needs a few frames."""


def source_of(section: Semantic) -> Source:
    """Return where the weights of a section's encoder are."""
    return Source(section.encoder, section.encoder_revision, FILES)


def find_encoder(section: Semantic) -> Found:
    """Return the weights of a section's encoder, downloaded if they are not here.

    Raises:
        UserError: The package or the weights are missing; says what to install or download.
    """
    what = "the encoder of the tokenizer semantic"
    require_package("transformers", what, WITHOUT)
    return fetch(source_of(section), what, "--tokenizers.NAME.encoder", WITHOUT)


class PretrainedFrames:
    """Frames of one layer of an encoder, at token rate.

    Args:
        section: Settings.
        found: The weights.
        sample_rate: Of the clips, in Hz.
        tokens: Token frames of a clip, T.

    Raises:
        UserError: The weights cannot be used, or have no such layer.
    """

    def __init__(self, section: Semantic, found: Found, sample_rate: int, tokens: int) -> None:
        self.section, self.found = section, found
        self.sample_rate, self.tokens = sample_rate, tokens
        self.extractor = _extractor(found.folder)
        self.rate = int(self.extractor.sampling_rate)
        with seeded(0):
            model = load_model("AutoModel", found.folder)
        if bad := not_finite(model.state_dict()):
            raise UserError(f"{found.folder}: weights are not finite: {bad}")
        # Of two towers the one that hears; of a sequence-to-sequence network the encoder.
        model = getattr(model, "audio_model", model)
        if getattr(model.config, "is_encoder_decoder", False):
            model = model.get_encoder()
        self.net = model.eval().requires_grad_(False)

    def to(self, device: torch.device | str) -> "PretrainedFrames":
        """Move the network to a device."""
        self.net.to(device)
        return self

    @torch.no_grad()
    def vectors(self, sound_BS: Tensor, logmel_BMF: Tensor) -> Tensor:
        """Return vectors of the chosen layer, float32 (B, T, C), each sound by itself."""
        del logmel_BMF
        wanted = max(1, round(sound_BS.shape[1] * self.rate / self.sample_rate))
        sounds = resampled(sound_BS.float(), self.sample_rate, self.rate, wanted).cpu()
        found = [self._frames(sound).transpose(1, 2) for sound in sounds]
        return torch.cat([F.adaptive_avg_pool1d(f, self.tokens) for f in found]).transpose(1, 2)

    def state(self) -> dict[str, Tensor]:
        """Return nothing: the weights stay where they are."""
        return {}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take nothing, see ``state``."""

    def _frames(self, sound_S: Tensor) -> Tensor:
        reach = _reach(self.extractor)
        pieces = sound_S.split(reach) if reach else (sound_S,)
        return torch.cat([self._piece(piece, reach) for piece in pieces], 1)

    def _piece(self, sound_S: Tensor, reach: int | None) -> Tensor:
        least = max(len(sound_S), round(LEAST_SECONDS * self.rate))
        padded = F.pad(sound_S, (0, least - len(sound_S)))
        inputs = self.extractor(padded.numpy(), sampling_rate=self.rate, return_tensors="pt")
        name = self.net.main_input_name
        values = inputs[name].to(next(self.net.parameters()).device).float()
        # CLAP with fusion wants to know whether the sound was cut; here it never is.
        more = {"is_longer": inputs["is_longer"]} if "is_longer" in inputs else {}
        output = self.net(values, output_hidden_states=True, **more)
        layers = (*output.hidden_states[:-1], output.last_hidden_state)
        if not -len(layers) <= self.section.layer < len(layers):
            raise UserError(
                f"{self.found.folder}: no layer {self.section.layer}; give --tokenizers.NAME.layer "
                f"from {-len(layers)} to {len(layers) - 1}"
            )
        frames = _in_time(layers[self.section.layer], self.net.config)
        covered = len(padded) if reach is None else reach
        heard = max(1, round(frames.shape[1] * len(sound_S) / covered))
        return frames[:, :heard].float()


def _extractor(folder: Path) -> Any:
    from transformers import AutoFeatureExtractor

    try:
        return AutoFeatureExtractor.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        # The library raises many kinds; whatever it is, the file is no extractor of sounds.
        first = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{folder}: no feature extractor of sounds ({first[0]})") from error


def _reach(extractor: Any) -> int | None:
    """Return the samples that an extractor pads every sound to, or None; it cuts longer ones."""
    for name in ("nb_max_samples", "n_samples"):
        if hasattr(extractor, name):
            return int(getattr(extractor, name))
    if hasattr(extractor, "max_length") and hasattr(extractor, "num_mel_bins"):
        # A spectrogram of so many frames, 10 ms each.
        return int(extractor.max_length) * int(extractor.sampling_rate) // 100
    return None


def _in_time(hidden: Tensor, config: Any) -> Tensor:
    """Return hidden states as (B, F, C) in the order of time, the mean over frequencies."""
    if hidden.ndim == 4:
        # (B, C, H, W) of a spectrogram that was folded into a square, one stretch of time under the
        # other; in the last layer the library has put them side by side again.
        is_square = hidden.shape[2] == hidden.shape[3]
        folds = config.spec_size // config.num_mel_bins if is_square else 1
        parts = hidden.unflatten(2, (folds, -1)).mean(3)
        return parts.flatten(2).transpose(1, 2)
    if hasattr(config, "frequency_stride"):
        bands = (config.num_mel_bins - config.patch_size) // config.frequency_stride + 1
        steps = (config.max_length - config.patch_size) // config.time_stride + 1
        return hidden[:, -bands * steps :].unflatten(1, (bands, steps)).mean(1)
    return hidden
