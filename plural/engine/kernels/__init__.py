"""What the engine asks of a machine, and the machines that can do it."""
