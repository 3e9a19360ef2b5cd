"""Encoders of audio whose frames ``semantic`` clusters."""
