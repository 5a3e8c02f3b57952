"""The text encoder as it is served: traced, fused, compressed, and measured against the full one."""
