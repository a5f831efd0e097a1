"""One module per job: wires config, Ray and the layers below."""
