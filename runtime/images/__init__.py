"""Images in prompts: read, brought to the size that the model wants, embedded, and put into the caches in front of the first new token."""
