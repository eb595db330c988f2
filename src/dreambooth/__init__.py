"""DreamBooth (arXiv 2208.12242), its ablations and their measurement."""
