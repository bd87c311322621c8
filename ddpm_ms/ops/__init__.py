"""Device-specific kernels behind one neutral Cell each: convolution, normalisation, softmax, attention, activation,
upsampling. Within `ddpm_ms.runtime.portable` they take forms that can be exported."""
