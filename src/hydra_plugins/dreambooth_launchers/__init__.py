"""conf/launcher: where Hydra looks for launchers, a package of this name."""
