"""The first study's own tokenizers as presets, for a corpus of sounds alone such as LibriSpeech.

Its sizes, codebook, losses, optimizer, warm restarts and clipping (``docs/TOKENIZERS.md`` says what
had been wrong in its code and is right here). Steps are its 30 epochs of 360 hours on two GPUs.
"""

from nano4m.config.clips import ClipsConfig
from nano4m.config.datasets import FolderDataset
from nano4m.config.run import Config, EvaluateConfig
from nano4m.config.tokenizers import Bpe, WaveVQ

HOURS, EPOCHS, BATCH, CROP_SECONDS = 360, 30, 256, 1.0

WAVE = WaveVQ(
    # Six convolutions of kernel 4 and stride 2: 250 tokens a second at 16 kHz.
    strides=(2, 2, 2, 2, 2, 2),
    frontend="conv",
    decoder="conv",
    vocab=512,
    width=128,
    code_dim=128,
    layers=2,
    frame_layers=0,
    steps=HOURS * 3600 * EPOCHS // (BATCH * round(CROP_SECONDS)),
    batch_size=BATCH,
    crop_seconds=CROP_SECONDS,
    lr=2e-4,
    schedule="warm_restarts",
    restart_share=5 / EPOCHS,
    clip_norm=1.0,
    l1_weight=1.0,
    stft_weight=1.0,
    mel_weight=0.0,
)
"""The raw-waveform VQ-VAE."""

STUDY_WAVE = Config(
    preset="study-wave",
    dataset=FolderDataset(),
    clips=ClipsConfig(window_seconds=1.024, sample_rate=16000, require=("sound",)),
    tokenizers={"sound": WAVE, "caption": Bpe(vocab=512, max_length=24)},
    evaluate=EvaluateConfig(split="val"),
)
