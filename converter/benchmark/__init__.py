"""`kexport bench`: how fast an artifact is, and how far that is from what the machine's memory allows.

Each round is a fresh process (`worker.py`) that loads the artifact, feeds a prompt, and decodes; between stretches of decode steps it measures the
memory bandwidth with the same number of threads (`bandwidth.py`), so that both see the same machine. The floor of a step is the bytes
it must read (`traffic.py`) divided by that bandwidth.
"""
