"""What runs in the triggerer: thin faces over control."""
