"""Images in, labels out: classifier, batcher, frames. Imports no server and no command."""
