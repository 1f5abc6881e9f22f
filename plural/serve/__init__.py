"""The wire: what is inside, offered to other programs. Holds no tensors."""
