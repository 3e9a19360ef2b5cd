"""Parts of ``wave_vq``: encoder, losses, discriminators, and the loop that trains them."""
