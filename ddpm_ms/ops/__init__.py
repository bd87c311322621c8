"""Device-specific kernels behind one neutral Cell each: convolution, normalisation, softmax, attention, activation, upsampling,
pooling. Within `ddpm_ms.runtime.portable` they take forms that can be exported."""
