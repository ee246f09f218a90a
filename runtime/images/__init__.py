"""From the bytes of a file to pixels: formats, what lies beside the pixels, and folders of images."""
