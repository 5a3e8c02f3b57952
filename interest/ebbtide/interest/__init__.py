"""The ground floor: tensor contract, decay, gate, blend and request handling, on NumPy alone."""
