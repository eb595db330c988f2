"""The launchers of conf/launcher. Hydra searches the package hydra_plugins for them."""
