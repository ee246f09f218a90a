"""From a file's bytes to pixels, and from folders to image files. May import nothing but `base`."""
