"""The results on the DFGAN slides (2023-11-27), for comparison with our own."""

RESULTS: dict[str, dict[str, float]] = {
    "QDCT": {"psnr": 33.78583, "ssim": 0.853226},
    "DFGAN": {"psnr": 37.43686, "ssim": 0.922514},
    "AttnDFGAN": {"psnr": 36.17765, "ssim": 0.922488},
}
"""Row → PSNR [dB] and SSIM on 600 AAPM-Mayo 2016 test slices at 256², protocol `published`."""
