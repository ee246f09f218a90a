"""From labelled images to a trained student. Its folders import no file of this one."""
