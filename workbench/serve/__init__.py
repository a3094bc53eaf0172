"""A checkpoint behind its policy, as an OpenAI-compatible endpoint. Imports nothing; see `workbench.serve.app`."""
