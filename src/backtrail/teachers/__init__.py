"""Where a denoiser comes from: trained here, or imported from a released checkpoint."""
