"""How well the oracle reads fresh drawings.

    python benchmarks/oracle.py [num_scenes] [weights]

1,000 scenes take about 3 minutes on one core. Prints:

- the accuracy of each attribute;
- identity: the area under the ROC curve, the expected calibration error with its reliability table,
  and the mean of the drawings in each relation to the prompted individual;
- clean: the area under the ROC curve, and the share that the oracle calls clean, of drawings and of
  each kind of damage;
- the identity that a perfect model would have, for each kind of prompt.
"""

import sys
from pathlib import Path

import numpy as np

from dreambooth.miniature import WEIGHTS, oracle_quality
from dreambooth.miniature.oracle import Oracle
from dreambooth.miniature.oracle_pretraining import RELATIONS
from dreambooth.subjects.prompt_sets import application_of


def print_attributes(oracle: Oracle, num_scenes: int) -> None:
    for name, value in oracle_quality.attribute_accuracies(oracle, num_scenes).items():
        print(f"{name:11s}{value:8.2%}")


def print_identity(oracle: Oracle, num_cases: int) -> None:
    result = oracle_quality.measure_identity(oracle, num_cases)
    bins = oracle_quality.reliability(result.probability, result.is_same)
    error = oracle_quality.calibration_error(bins)
    print(f"\nidentity: AUC {result.auc:.4f}, expected calibration error {error:.4f}")
    print("mean probability | share of the same individual | images")
    for b in bins:
        print(f"{b.probability:16.3f} | {b.share:28.3f} | {b.count:8d}")
    for relation in RELATIONS:
        print(f"mean identity of {relation:28s}{result.mean_of(relation):6.3f}")


def print_clean(oracle: Oracle, num_scenes: int) -> None:
    result = oracle_quality.measure_clean(oracle, num_scenes)
    print(f"\nclean: AUC {result.auc:.4f} (drawings mildly changed, against all damage)")
    rows = {"plain drawings": result.plain, "drawings mildly changed": result.mild}
    rows |= result.damaged | {"drawings warped by 2 px": result.warped_2_px}
    for name, probability in rows.items():
        print(f"{name:24s}called clean: {np.mean(probability >= 0.5):7.2%}")


def print_perfect_model(oracle: Oracle, num_subjects: int) -> None:
    print("\nidentity of a perfect model")
    families: dict[str, list[float]] = {}
    for kind, template, value in oracle_quality.perfect_model_identity(
        oracle, num_subjects, num_images=4
    ):
        families.setdefault(f"{kind}: {application_of(template)}", []).append(value)
    for family, values in families.items():
        print(f"{family:40s}{np.mean(values):6.3f}  ({min(values):.3f} to {max(values):.3f})")


def main() -> None:
    num_scenes = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    oracle = Oracle.load(Path(sys.argv[2]) if len(sys.argv) > 2 else WEIGHTS)
    print_attributes(oracle, num_scenes)
    print_identity(oracle, num_cases=num_scenes // 4)
    print_clean(oracle, num_scenes // 2)
    print_perfect_model(oracle, num_subjects=max(5, num_scenes // 50))


if __name__ == "__main__":
    main()
