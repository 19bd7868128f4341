"""What becomes of every tensor: resolver, axis maps, states of spaces, blocks. Pure: no tensor is touched."""
