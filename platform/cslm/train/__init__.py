"""DeepSpeed engine, step loop and checkpoints."""
