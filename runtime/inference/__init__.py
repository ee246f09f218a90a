"""Images in, labels out: classifier, batcher, video. May not import a server or a command."""
