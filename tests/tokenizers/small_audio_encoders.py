"""Small random audio encoders of transformers, as folders."""

from pathlib import Path

import torch

RATE = 16000


def save_encoder(kind: str, folder: Path) -> Path:
    """Save a small random network of a kind with its feature extractor, and return the folder."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, extractor = MAKERS[kind]()
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return folder


def _waveform(config_name: str, model_name: str):
    import transformers

    config = getattr(transformers, config_name)(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        conv_dim=(8, 8), conv_stride=(8, 8), conv_kernel=(16, 8), num_feat_extract_layers=2,
        num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    extractor = transformers.Wav2Vec2FeatureExtractor(sampling_rate=RATE)
    return getattr(transformers, model_name)(config), extractor


def _ast():
    from transformers import ASTConfig, ASTFeatureExtractor, ASTModel

    config = ASTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        max_length=64, num_mel_bins=32, patch_size=8, frequency_stride=8, time_stride=4,
    )  # fmt: skip
    return ASTModel(config), ASTFeatureExtractor(max_length=64, num_mel_bins=32)


def _clap():
    from transformers import (
        ClapAudioConfig,
        ClapConfig,
        ClapFeatureExtractor,
        ClapModel,
        ClapTextConfig,
    )

    audio = ClapAudioConfig(
        spec_size=64, num_mel_bins=16, window_size=4, patch_size=2, patch_stride=[2, 2],
        patch_embeds_hidden_size=8, hidden_size=16, depths=[1, 1], num_attention_heads=[1, 2],
        num_hidden_layers=2, projection_dim=8,
    )  # fmt: skip
    text = ClapTextConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, projection_dim=8,
    )  # fmt: skip
    extractor = ClapFeatureExtractor(
        feature_size=16,
        sampling_rate=RATE,
        hop_length=64,
        max_length_s=1,
        fft_window_size=256,
        truncation="rand_trunc",
    )
    config = ClapConfig(text_config=text.to_dict(), audio_config=audio.to_dict(), projection_dim=8)
    return ClapModel(config), extractor


def _whisper():
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

    config = WhisperConfig(
        d_model=16, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, num_mel_bins=16,
        max_source_positions=50, vocab_size=32, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=1,
    )  # fmt: skip
    return WhisperModel(config), WhisperFeatureExtractor(feature_size=16, chunk_length=1)


MAKERS = {
    "hubert": lambda: _waveform("HubertConfig", "HubertModel"),
    "wavlm": lambda: _waveform("WavLMConfig", "WavLMModel"),
    "ast": _ast,
    "clap": _clap,
    "whisper": _whisper,
}
"""Kind -> function that returns a model and its feature extractor."""
