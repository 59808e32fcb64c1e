"""What the papers report, to stand beside our figures.

Ryu et al., Heliyon 2023 ("paper A"): hematology from refractive-index tomograms; real blood, so that no figure of
simulated samples can be compared with it.
"""

NOT_COMPARABLE = "simulated data; difficulty is a setting; not comparable"
OTHER_DATA = "other samples and other annotations; not comparable"

CLASSES = ("RBC", "PLT", "WBC", "ARBC")
# Table 1: annotated cells.
CELLS = {
    "train": {"RBC": 67_595, "PLT": 6_391, "WBC": 87, "ARBC": 6_435},
    "val": {"RBC": 19_604, "PLT": 1_608, "WBC": 19, "ARBC": 1_567},
    "test": {"RBC": 9_661, "PLT": 1_143, "WBC": 18, "ARBC": 1_015},
}
# Table 2: mAP and parameters (millions).
DETECTION = {
    "ResNet-18": {"map": 0.970, "parameters_m": 21.45},
    "ResNet-50": {"map": 0.970, "parameters_m": 32.12},
    "Swin Transformer": {"map": 0.977, "parameters_m": 35.56},
}
# Table 3: recall, precision, F1 of matched cells by class; weighted F1 and accuracy.
CLASSIFICATION = {
    "ResNet-18": {
        "RBC": (0.9873, 0.9803, 0.9838),
        "PLT": (0.9912, 0.9937, 0.9925),
        "WBC": (0.9286, 0.5417, 0.6842),
        "ARBC": (0.7967, 0.8645, 0.8292),
    },
    "ResNet-50": {
        "RBC": (0.9596, 0.9899, 0.9745),
        "PLT": (0.9924, 0.9937, 0.9930),
        "WBC": (0.8571, 1.0000, 0.9231),
        "ARBC": (0.9004, 0.6871, 0.7795),
    },
    "Swin Transformer": {
        "RBC": (0.9921, 0.9716, 0.9818),
        "PLT": (0.9950, 0.9901, 0.9926),
        "WBC": (0.6875, 1.0000, 0.8148),
        "ARBC": (0.7090, 0.8964, 0.7918),
    },
}
TOTALS = {  # Table 3: weighted F1, accuracy; section 3.1: RBC taken for ARBC or the reverse
    "ResNet-18": {"weighted_f1": 0.9708, "accuracy": 0.9712, "red_failures": 306},
    "ResNet-50": {"weighted_f1": 0.9593, "accuracy": 0.9568, "red_failures": 472},
    "Swin Transformer": {"weighted_f1": 0.9663, "accuracy": 0.9680, "red_failures": 344},
}
# Section 3.2, Fig. 4: against Beckman Coulter DxH-800 and LH-780.
AGREEMENT = {"mcv_fl": {"r": 0.905, "slope": 1.04}, "mch_pg": {"r": 0.889, "slope": 0.97}}
