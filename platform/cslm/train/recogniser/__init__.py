"""Training of the CTC recogniser, whose middle gives the learned tokenizer's units."""
