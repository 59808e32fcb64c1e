"""FCOS: fully convolutional one-stage detection (Tian et al., ICCV 2019, arXiv:1904.01355)."""
