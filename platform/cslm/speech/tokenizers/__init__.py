"""One module for each kind of speech tokenizer."""
