"""From a source to clips: sources, cutting, the clips table, fingerprints and duplicates."""
