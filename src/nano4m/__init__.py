"""nano4M-Audio: one small transformer from any of {picture, depth, normals, sound, caption} to any other."""

__version__ = "0.1.0"
