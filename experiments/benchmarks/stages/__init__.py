"""Every stage of the suite beside a plain twin and the floor."""

from threeshnet.threads import prepare_threads

prepare_threads()  # before torch is imported, as the command does
