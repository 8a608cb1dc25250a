"""Found by Hydra, which looks for launchers in the namespace package `hydra_plugins`."""
