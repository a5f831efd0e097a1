"""The joint language model: vocabulary, prompts, examples, packing, generation."""
