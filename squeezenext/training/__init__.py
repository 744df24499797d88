"""The engine: one compiled loop on any number of devices, its state on disk, and its watchdog."""
