"""One definition of the network with LoRA slots; weights in; messages to tokens and back. Used by engine and train."""
