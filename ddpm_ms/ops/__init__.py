"""Device-specific kernels behind one neutral function each: `ddpm_ms.ops.convolution`."""
