"""What paper B reports, to stand beside our figures.

Park et al., Advanced Sensor Research 2025 ("paper B"): stored red cells from off-axis holograms; real blood, so that no
figure of simulated samples can be compared with it.
"""

from hemolens.io.colors import STORAGE_TYPES

TYPES = STORAGE_TYPES

# Table 1: Dice by type and overall, mean over 40 test images.
DICE = {
    "U-Net": (0.7548, 0.9654, 0.9297, 0.9385, 0.8971),
    "DeepLab v3+": (0.651, 0.8914, 0.7661, 0.8707, 0.7948),
    "FCN": (0.5348, 0.9543, 0.9332, 0.6425, 0.7662),
    "PSPNet": (0.9251, 0.9802, 0.9402, 0.9748, 0.955),
    "GAN + Watershed": (0.9548, 0.9575, 0.9466, 0.9064, 0.9413),
    "Denoising diffusion GAN": (0.9531, 0.9801, 0.9626, 0.9776, 0.9683),
    "ResUnet": (0.8762, 0.9646, 0.9467, 0.9295, 0.9292),
    "ResUnet + DA": (0.891, 0.9653, 0.9056, 0.9813, 0.9358),
    "ResUnet + SSL": (0.8794, 0.9603, 0.9536, 0.9589, 0.9381),
    "ResUnet + DA&SSL": (0.948, 0.9879, 0.981, 0.9839, 0.9752),
}
# Table 2: aggregated Jaccard index. Of ResUnet + SSL the four types average .8916, the table says .8968.
AJI = {
    "U-Net": (0.6433, 0.9399, 0.8784, 0.8968, 0.8396),
    "DeepLab v3+": (0.5181, 0.844, 0.6019, 0.8127, 0.6941),
    "FCN": (0.4499, 0.9238, 0.8831, 0.6344, 0.7228),
    "PSPNet": (0.8419, 0.9539, 0.8724, 0.9404, 0.9021),
    "GAN + Watershed": (0.8932, 0.9169, 0.8915, 0.8288, 0.8826),
    "Denoising diffusion GAN": (0.9049, 0.9628, 0.9305, 0.9577, 0.9389),
    "ResUnet": (0.7872, 0.9394, 0.9044, 0.8931, 0.881),
    "ResUnet + DA": (0.8517, 0.9476, 0.8772, 0.9648, 0.9103),
    "ResUnet + SSL": (0.7932, 0.9321, 0.9154, 0.9255, 0.8968),
    "ResUnet + DA&SSL": (0.9214, 0.977, 0.9636, 0.9699, 0.9579),
}
# Table 3: seconds for 10 test images on a Quadro RTX 6000, parameters, multiply-accumulates (G, by the counter thop).
COST = {
    "U-Net": (1.4517, 54_424_581, 18.42),
    "DeepLab v3+": (1.7595, 39_757_733, 9.28),
    "FCN": (1.1224, 18_643_845, 25.51),
    "PSPNet": (2.7531, 65_700_293, 65.72),
    "GAN + Watershed": (1.6574, 13_043_269, 81.00),
    "Denoising diffusion GAN": (24.9052, 135_891_461, 279.03),
    "ResUnet": (1.7472, 73_688_197, 50.17),
}
# What stands beside our figures.
FIGURE_5 = "Figure 5 of paper B shows one generated phase image so."
FIGURE_7 = "Figure 7 of paper B shows an image of each of the days 8, 13, 16, 23, 27, 30, 34, 37, 40, 47 and 57."
FIGURE_8 = (
    "Paper B, Figure 8: six images a day (254, 313, 363, 421, 490, 262, 188, 156, 309, 213 and 290 cells); more than "
    "90 % discocytes at first, a drastic change “after 40 d”, to echinocytes and then spherocytes; no intervals."
)
FIGURE_9 = (
    "Paper B, Figure 9: 2,469 discocytes, 335 spherocytes, 312 echinocytes and 143 stomatocytes, counted by hand; "
    "each of the last three more than 95 % right; what was missed or spurious is not in it."
)
FIGURE_10 = "Paper B, Figure 10: images of 900×900 pixels, 129.68 µm wide; 179 for training, 40 for the test."
# Arm of an ablation -> what the paper's rows add to ResUnet's; other arms are controls of ours.
ARMS = {None: "", "plain": "", "da": " + DA", "ssl": " + SSL", "da_ssl": " + DA&SSL"}
# Config name of a network -> the paper's method; a small variant of it, for CPUs, ends in _s.
METHODS = {
    "unet": "U-Net",
    "deeplabv3plus": "DeepLab v3+",
    "fcn": "FCN",
    "pspnet": "PSPNet",
    "gan_watershed": "GAN + Watershed",
    "ddgan_mask": "Denoising diffusion GAN",
    "resunet": "ResUnet",
    "resunet18": "ResUnet",
}


def method_of(net: str, arm: str | None = None) -> str | None:
    """The paper's name of a network of ours, or None.

    Args:
        net: name of its config.
        arm: of an ablation.
    """
    method = METHODS.get(net.removesuffix("_s"))
    if method is None or arm not in ARMS or (ARMS[arm] and method != "ResUnet"):
        return None
    return method + ARMS[arm]
