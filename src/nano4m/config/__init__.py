"""The configuration: frozen, validated sections, and the presets."""
