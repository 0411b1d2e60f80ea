"""The networks F(x, c_noise, condition) that a preconditioning turns into a denoiser."""
