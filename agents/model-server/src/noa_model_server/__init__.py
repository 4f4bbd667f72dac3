"""The sidecar `ai_model`: says what the content of files is, by a neural network."""

__version__ = "0.1.0"
