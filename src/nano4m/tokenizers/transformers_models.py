"""Loading a network of the library transformers from a folder, quietly and completely."""

from pathlib import Path
from typing import Any

import torch

from nano4m.errors import UserError


def load_model(name: str, folder: Path) -> Any:
    """Return ``transformers.<name>`` with the weights of a folder, float32 on the CPU.

    Raises:
        UserError: The files are damaged, of another network, or incomplete.
    """
    # Ten seconds on a busy machine, so not before a codec is loaded.
    import transformers

    verbosity = transformers.logging.get_verbosity()
    has_bar = transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        model, info = getattr(transformers, name).from_pretrained(
            folder,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    except Exception as error:
        # The library raises many kinds; whatever it is, the files are not this network's.
        first = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{folder}: no weights of {name} ({first[0]})") from error
    finally:
        transformers.logging.set_verbosity(verbosity)
        if has_bar:
            transformers.logging.enable_progress_bar()
    missing = sorted(info["missing_keys"]) + sorted(str(k) for k in info["mismatched_keys"])
    if missing:
        raise UserError(
            f"{folder}: weights of {name} without {len(missing)} of its tensors, such as "
            f"{missing[0]}"
        )
    return model
