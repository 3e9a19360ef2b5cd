"""Small random weights of every pretrained codec, as its authors' own code would save them."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file

from nano4m.config.tokenizers import SECTIONS
from nano4m.config.tokenizers.codec import CodecSection
from nano4m.tokenizers.seanet import SpeechTokenizerNet, published_names

KINDS = [kind for kind, section in SECTIONS.items() if issubclass(section, CodecSection)]
HOP, VOCAB, BOOKS = 64, 32, 2
SIZES = {"codec_hop": HOP, "codec_vocab": VOCAB, "codebooks": BOOKS}
SEANET = {"num_filters": 4, "hidden_size": 8, "upsampling_ratios": [4, 4, 2, 2],
          "codebook_size": VOCAB, "num_lstm_layers": 1}  # fmt: skip


def save_codec(kind: str, folder: Path, seed: int = 0) -> Path:
    """Save a small random network of a kind with filled codebooks, and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        WRITERS[kind](folder)
    return folder


def encodec(folder: Path, **changes) -> None:
    """Save an EnCodec; in a random one all codebooks are zeros until they are filled."""
    from transformers import EncodecConfig, EncodecModel

    config = EncodecConfig(**SEANET | changes)
    model = EncodecModel(config)
    with torch.no_grad():
        noise = 0.3 * torch.randn(1, config.audio_channels, 8 * VOCAB * model.config.hop_length)
        latents = model.encoder(noise)[0].T
    for level, layer in enumerate(model.quantizer.layers):
        fill(layer.codebook.embed, latents, level)
    model.save_pretrained(folder)


def fill(embed: torch.Tensor, latents: torch.Tensor, level: int) -> None:
    """Fill a codebook with near what its encoder makes of noise; residual ones with less."""
    rows = latents[torch.randint(len(latents), (len(embed),))]
    rows = rows + 0.2 * latents.std(0) * torch.randn_like(rows)
    embed.copy_(rows if level == 0 else (rows - latents.mean(0)) * 0.5**level)


def _bandwidths(rate: int) -> list[float]:
    bits = -(-rate // HOP) * (VOCAB - 1).bit_length()
    return [n * bits / 1000 for n in (2, 4)]


def _encodec_24khz(folder: Path) -> None:
    encodec(folder, target_bandwidths=_bandwidths(24000))


def _encodec_48khz(folder: Path) -> None:
    encodec(
        folder, target_bandwidths=_bandwidths(48000), sampling_rate=48000, audio_channels=2,
        normalize=True, chunk_length_s=1.0, overlap=0.01, norm_type="time_group_norm",
        use_causal_conv=False,
    )  # fmt: skip


def _dac(folder: Path) -> None:
    from transformers import DacConfig, DacModel

    config = DacConfig(
        encoder_hidden_size=4, downsampling_ratios=[4, 4, 4], decoder_hidden_size=32,
        n_codebooks=3, codebook_size=VOCAB, codebook_dim=4, sampling_rate=24000,
    )  # fmt: skip
    DacModel(config).save_pretrained(folder)


def _mimi(folder: Path) -> None:
    from transformers import MimiConfig, MimiModel

    config = MimiConfig(
        hidden_size=16, num_filters=4, upsampling_ratios=[4, 4, 2], codebook_size=VOCAB,
        codebook_dim=8, vector_quantization_hidden_dimension=8, num_quantizers=3,
        upsample_groups=16, num_hidden_layers=1, intermediate_size=16, num_attention_heads=2,
        num_key_value_heads=2, sliding_window=20,
    )  # fmt: skip
    model = MimiModel(config)
    quantizer = model.quantizer
    for part in (
        quantizer.semantic_residual_vector_quantizer,
        quantizer.acoustic_residual_vector_quantizer,
    ):
        for layer in part.layers:
            layer.codebook.embed_sum.normal_()
            layer.codebook.cluster_usage.uniform_(0.5, 2)
    model.save_pretrained(folder)


def _xcodec(folder: Path) -> None:
    from transformers import DacConfig, HubertConfig, XcodecConfig, XcodecModel

    acoustic = DacConfig(
        encoder_hidden_size=4, downsampling_ratios=[4, 4, 2, 2], decoder_hidden_size=32,
        codebook_size=VOCAB,
    )  # fmt: skip
    semantic = HubertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        conv_dim=[8, 8, 8], conv_kernel=[8, 4, 4], conv_stride=[4, 4, 4],
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    bits = 16000 // HOP * (VOCAB - 1).bit_length()
    config = XcodecConfig(
        target_bandwidths=[n * bits / 1000 for n in (1, 2, 4)], codebook_size=VOCAB,
        acoustic_model_config=acoustic, semantic_model_config=semantic,
    )  # fmt: skip
    model = XcodecModel(config)
    for quantizer in model.quantizer.quantizers:
        quantizer.codebook.embed.normal_(std=0.1)
    model.save_pretrained(folder)


SPEECH = {
    "n_filters": 4, "strides": [4, 4, 2, 2], "dimension": 8, "semantic_dimension": 12,
    "bidirectional": True, "dilation_base": 2, "residual_kernel_size": 3, "n_residual_layers": 1,
    "lstm_layers": 1, "activation": "ELU", "codebook_size": VOCAB, "n_q": 3, "sample_rate": 16000,
}  # fmt: skip
"""The keys of the published config.json that decide the network."""


def as_published(folder: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a saved EnCodec by the names of SpeechTokenizer's checkpoint."""
    renamed = {}
    for name, value in load_file(folder / "model.safetensors").items():
        if name.startswith("quantizer.layers."):
            book, part = name.split(".")[2], name.rsplit(".", 1)[1]
            renamed[f"quantizer.vq.layers.{book}._codebook.{part}"] = value
            continue
        new = name.replace(".layers.", ".model.", 1)
        for old, ending in (("original0", "weight_g"), ("original1", "weight_v")):
            new = new.replace(f"parametrizations.weight.{old}", ending)
        # Transposed convolutions, the only ones in the decoder with a stride, have their own name.
        is_up = new.startswith("decoder") and ".lstm." not in new and ".conv." in new
        place = int(new.split(".")[2])
        is_up = is_up and place in (3, 6, 9, 12) and ".block." not in new
        twice = ".convtr.convtr." if is_up else ".conv.conv."
        renamed[new.replace(".conv.", twice)] = value
    return renamed


def _speechtokenizer(folder: Path) -> None:
    aside = folder / "aside"
    encodec(aside, use_causal_conv=False, target_bandwidths=_bandwidths(24000))
    tensors = as_published(aside)
    shutil.rmtree(aside)
    # Its encoder reads both ways: one more LSTM, and a last convolution of twice the width.
    wide = 2 * SPEECH["n_filters"] * 2 ** len(SPEECH["strides"]) // 2
    both = torch.nn.LSTM(wide, wide, SPEECH["lstm_layers"], bidirectional=True)
    place = next(n for n in tensors if n.startswith("encoder") and ".lstm." in n).split(".lstm.")[0]
    tensors |= {f"{place}.lstm.{n}": v.detach() for n, v in both.named_parameters()}
    last = max(int(n.split(".")[2]) for n in tensors if n.startswith("encoder.model."))
    name = f"encoder.model.{last}.conv.conv.weight_v"
    tensors[name] = torch.randn(SPEECH["dimension"], 2 * wide, 7) * 0.1
    tensors["transform.weight"], tensors["transform.bias"] = torch.zeros(12, 8), torch.zeros(12)
    for book in range(SPEECH["n_q"], 99):
        if f"quantizer.vq.layers.{book}._codebook.embed" not in tensors:
            break
        for part in ("embed", "embed_avg", "cluster_size", "inited"):
            tensors.pop(f"quantizer.vq.layers.{book}._codebook.{part}", None)
    net = SpeechTokenizerNet(SPEECH)
    net.load_state_dict(published_names(tensors))
    with torch.no_grad():
        latents = net.encoder(0.3 * torch.randn(1, 1, 8 * VOCAB * HOP))[0].T
    for book in range(SPEECH["n_q"]):
        fill(tensors[f"quantizer.vq.layers.{book}._codebook.embed"], latents, book)
    torch.save(tensors, folder / "SpeechTokenizer.pt")
    (folder / "config.json").write_text(json.dumps(SPEECH))


WRITERS = {
    "encodec_24khz": _encodec_24khz,
    "encodec_48khz": _encodec_48khz,
    "dac": _dac,
    "mimi": _mimi,
    "xcodec": _xcodec,
    "speechtokenizer": _speechtokenizer,
}
