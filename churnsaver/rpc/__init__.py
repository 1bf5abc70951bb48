"""How gRPC is served and called here. The stubs under `stubs/` are generated: `make protos`."""
