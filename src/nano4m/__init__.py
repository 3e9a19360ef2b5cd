"""nano4M-Audio: any of {picture, depth, normals, sound, caption} to any other, one transformer."""

__version__ = "0.1.0"
