"""The serving benchmark: compares serving with a do-nothing server, with peers and with the limits of the machine."""
