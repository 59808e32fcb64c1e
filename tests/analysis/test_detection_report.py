import torch

from hemolens.analysis.detection_report import (
    RARE_BELOW_BOXES,
    SIZE_LIMITS_PX,
    detection_markdown,
    detection_table,
)
from hemolens.metrics.detection import VOCMeanAveragePrecision

NAMES = ("RBC", "WBC", "Platelets")


def results(rare: list[int]) -> dict:
    nan = torch.nan
    return {
        "average_precision": {
            "map": torch.tensor(0.91),
            "map_frequent": torch.tensor(0.88),
            "ap_per_class": torch.tensor([0.844, 0.979, nan]),
            "gt_per_class": torch.tensor([819, 18, 0]),
            "recall_by_size": {
                "small": torch.tensor(nan),
                "medium": torch.tensor(0.9),
                "large": torch.tensor(1.0),
            },
            "rare_classes": rare,
        },
        "matched": {
            "confusion_with_background": torch.tensor([[800, 2, 0, 17], [1, 16, 0, 1], [0, 0, 0, 0], [30, 4, 1, 0]]),
            "recall": torch.tensor([0.9975, 0.9412, nan]),
            "precision": torch.tensor([0.9988, 0.8889, nan]),
            "f1": torch.tensor([0.9981, 0.9143, nan]),
            "weighted_f1": torch.tensor(0.9964),
            "accuracy": torch.tensor(0.9963),
            "n_missed": torch.tensor(18),
            "n_spurious": torch.tensor(35),
        },
        "report_score_threshold": 0.3,
    }


def test_table() -> None:
    assert detection_table(results([1, 2]), NAMES) == "\n".join(
        [
            "class        boxes     AP  missed  spurious  recall  precision     F1",
            "---------------------------------------------------------------------",
            "RBC            819  0.844      17        30   0.998      0.999  0.998",
            "WBC *           18  0.979       1         4   0.941      0.889  0.914",
            "Platelets *      0      –       0         1       –          –      –",
            "---------------------------------------------------------------------",
            "all            837  0.910      18        35",
            "",
            "mAP (IoU >= 0.5, mean of the classes' AP): 0.910",
            "* fewer than 30 test boxes, so an uncertain AP (WBC, Platelets); mAP without: 0.880",
            "matched cells (IoU >= 0.5, score >= 0.3; recall, precision and F1 above too): accuracy 0.996, "
            "weighted F1 0.996",
            "recall at any score by box size: small (< 32 px) –, medium (32 to 96 px) 0.900, large (>= 96 px) 1.000",
        ]
    )


def test_no_note_without_rare_classes() -> None:
    assert "*" not in detection_table(results([]), NAMES)


def test_markdown_has_the_same_numbers() -> None:
    lines = detection_markdown(results([1]), NAMES).splitlines()
    assert lines[0] == "| class | boxes | AP | missed | spurious | recall | precision | F1 |"
    assert lines[1] == "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    assert lines[3] == r"| WBC \* | 18 | 0.979 | 1 | 4 | 0.941 | 0.889 | 0.914 |"
    assert {line.count("|") for line in lines[:6]} == {9}
    assert lines[8].startswith(r"- \* fewer than 30 test boxes")


def test_limits_named_in_the_table_are_those_of_the_metric() -> None:
    metric = VOCMeanAveragePrecision(3)
    assert metric.min_boxes == RARE_BELOW_BOXES
    assert metric.size_limits_px == SIZE_LIMITS_PX
