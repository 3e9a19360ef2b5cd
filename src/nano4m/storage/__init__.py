"""Files that the program writes for itself: written whole, read with one kind of error, owned."""
