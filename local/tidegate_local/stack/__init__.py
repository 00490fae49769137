"""The one-machine stack: which processes make it up, how they are started, watched and ended."""
