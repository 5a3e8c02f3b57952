"""Peers that serve the same recommendations: grpc.aio, PyTriton, and an ensemble of one Python model per operator."""
