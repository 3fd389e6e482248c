"""The proof: the written artifact, opened in a fresh process, against the original."""
