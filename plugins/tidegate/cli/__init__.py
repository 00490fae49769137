"""The command line of the control plane: looks into the run store, and lets a locked-out run go on."""
