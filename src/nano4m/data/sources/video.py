"""Endings of films."""

from nano4m.media import film

VIDEOS = film.VIDEOS
