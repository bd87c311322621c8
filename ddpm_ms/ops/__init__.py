"""Device-specific kernels behind one neutral Cell each: convolution, normalisation, softmax, attention, upsampling, pooling."""
