"""The same recommendations served as they usually are: grpc.aio, PyTriton, and one Python model for each operator."""
