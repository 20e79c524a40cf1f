"""Implementations of the engine port: vllm (ours), openai (remote), echo (tests)."""
