"""What is done to one image on its way: lease, download, header, decode, infer, post."""
