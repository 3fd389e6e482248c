"""Who is measured: one file for each runtime, found by its name; importing it registers its rivals, and imports no library.

    registry.rival("openvino-genai-default") -> a Rival that has loaded nothing yet
"""
