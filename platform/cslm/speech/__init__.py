"""Audio, speech units and the tokenizers that make them."""
